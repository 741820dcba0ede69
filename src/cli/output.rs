//! What people read: lines on standard error, and on a terminal a live line below them.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use punchtunnel::{ConfigError, Error};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::args::{Global, LogFormat};

/// How often the live line moves: smooth, and cheap over a slow remote terminal.
const TICK: Duration = Duration::from_millis(120);

/// How much is told, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// Form.
    pub(crate) format: LogFormat,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// Errors only.
    pub(crate) quiet: bool,
}

impl Told {
    /// What was typed, for errors about the configuration file itself.
    pub(crate) fn without_file(global: &Global) -> Told {
        let format = global.log_format.unwrap_or(LogFormat::Text);
        Told { format, verbose: global.verbose, quiet: global.quiet }
    }
}

/// Standard error, as one place for lines, the live line and logs, so that they do not cut into each
/// other. Clones write to the same place.
#[derive(Clone)]
pub(crate) struct Output {
    format: LogFormat,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    live: Arc<Mutex<Live>>,
}

/// What goes on now.
#[derive(Default)]
struct Live {
    /// On a terminal, the line that is drawn at the moment. Made anew each time: a bar that has ended
    /// would be drawn once more on its way to a new beginning.
    bar: Option<ProgressBar>,
    /// Elsewhere, the text that was printed as a line.
    last: String,
}

impl Output {
    /// Sets up standard error, and logging behind it.
    pub(crate) fn start(Told { format, verbose, quiet }: Told) -> Output {
        let terminal = io::stderr().is_terminal() && format == LogFormat::Text && !quiet;
        let output = Output { format, quiet, verbose: verbose > 0, terminal, live: Arc::default() };
        let level = match verbose {
            0 => "punchtunnel=warn,told=info",
            1 => "punchtunnel=debug,told=info",
            _ => "punchtunnel=trace,told=info",
        };
        let filter = std::env::var("RUST_LOG")
            .ok()
            .and_then(|directives| EnvFilter::try_new(format!("told=info,{directives}")).ok())
            .unwrap_or_else(|| EnvFilter::new(level));
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output.clone());
        match format {
            LogFormat::Text => logs.with_ansi(terminal).init(),
            LogFormat::Json => logs.json().init(),
        }
        output
    }

    /// A step that is done; with it ends what went on.
    pub(crate) fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        self.clear();
        self.always(text);
    }

    /// What only those who asked for it want to see (`-v`).
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.line(text);
        }
    }

    /// What goes on now: on a terminal it replaces what went on before; elsewhere it is a line, unless
    /// it is the same as the last one.
    pub(crate) fn live(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            self.draw("{spinner} {msg}", |bar| {
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(TICK);
            });
            return;
        }
        let is_new = {
            let mut live = self.lock();
            live.last != text && {
                text.clone_into(&mut live.last);
                true
            }
        };
        if is_new {
            self.always(text);
        }
    }

    /// How far a transfer is, on a terminal only.
    pub(crate) fn progress(&self, text: &str, done: u64, total: u64) {
        if self.terminal {
            self.draw("{msg} {wide_bar} {bytes}/{total_bytes}", |bar| {
                bar.set_message(text.to_owned());
                bar.set_length(total);
                bar.set_position(done);
            });
        }
    }

    /// The end of what goes on.
    pub(crate) fn clear(&self) {
        let mut live = self.lock();
        live.last.clear();
        if let Some(bar) = live.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// An error that ends the program.
    pub(crate) fn error(&self, error: &Error) {
        self.clear();
        match self.format {
            LogFormat::Text => self.write(&format!("error: {error}")),
            LogFormat::Json => tracing::error!(target: "told", "{error}"),
        }
    }

    fn always(&self, text: &str) {
        match self.format {
            LogFormat::Text => self.write(text),
            LogFormat::Json => tracing::info!(target: "told", "{text}"),
        }
    }

    fn draw(&self, template: &str, show: impl FnOnce(&ProgressBar)) {
        let Ok(style) = ProgressStyle::with_template(template) else { return };
        let mut live = self.lock();
        let bar =
            live.bar.get_or_insert_with(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        bar.set_style(style);
        show(bar);
    }

    fn write(&self, text: &str) {
        self.write_all(format!("{text}\n").as_bytes());
    }

    /// In one piece, above the live line.
    fn write_all(&self, text: &[u8]) {
        // Standard error may be closed; there is nobody left to tell.
        let write = || drop(io::stderr().lock().write_all(text));
        match &self.lock().bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs take the same way as lines.
impl<'a> MakeWriter<'a> for Output {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> LogWriter<'a> {
        LogWriter { output: self, text: Vec::new() }
    }
}

/// Collects one log message and writes it when dropped.
pub(crate) struct LogWriter<'a> {
    output: &'a Output,
    text: Vec<u8>,
}

impl Write for LogWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogWriter<'_> {
    fn drop(&mut self) {
        self.output.write_all(&self.text);
    }
}

/// The answer that a command was asked for.
pub(crate) fn answer(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever read it has read enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(ConfigError::Stdio(format!("cannot write to standard output: {e}")).into()),
        Ok(()) => Ok(()),
    }
}
