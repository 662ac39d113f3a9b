//! The daemon's executable; its code is in the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pynatconnd::daemon::main()
}
