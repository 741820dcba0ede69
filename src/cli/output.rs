//! What people read: lines on standard error, and on a terminal a live line below them.

use std::{
    io::{self, IsTerminal, Write},
    sync::Mutex,
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
    /// Hidden where standard error is no terminal.
    live: ProgressBar,
    /// The last live text that was printed as a line, where there is no terminal.
    last: std::sync::Arc<Mutex<String>>,
}

impl Output {
    /// Sets up standard error, and logging behind it.
    pub(crate) fn start(Told { format, verbose, quiet }: Told) -> Output {
        let terminal = io::stderr().is_terminal() && format == LogFormat::Text && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let live = ProgressBar::with_draw_target(None, target);
        let output = Output { format, quiet, live, last: std::sync::Arc::default() };
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

    /// What goes on now: on a terminal it replaces what went on before; elsewhere it is a line, unless
    /// it is the same as the last one.
    pub(crate) fn live(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.live.is_hidden() {
            let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if *last != text {
                text.clone_into(&mut last);
                self.always(text);
            }
            return;
        }
        self.live.set_message(text.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            self.live.set_style(style);
        }
        self.live.enable_steady_tick(TICK);
    }

    /// How far a transfer is, on a terminal only.
    pub(crate) fn progress(&self, text: &str, done: u64, total: u64) {
        self.live.set_message(text.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
            self.live.set_style(style);
        }
        self.live.set_length(total);
        self.live.set_position(done);
    }

    /// The end of what goes on.
    pub(crate) fn clear(&self) {
        self.live.disable_steady_tick();
        self.live.set_message("");
        self.live.finish_and_clear();
        self.live.reset();
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

    fn write(&self, text: &str) {
        // Standard error may be closed; there is nobody left to tell.
        self.live.suspend(|| drop(writeln!(io::stderr().lock(), "{text}")));
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
        self.output.live.suspend(|| drop(io::stderr().lock().write_all(&self.text)));
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
