//! `punchtunnel`: reach a TCP service behind a NAT from behind another NAT.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
