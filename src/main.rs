//! The program: takes over what must happen before the first thread, and hands on to `cli`.

fn main() -> std::process::ExitCode {
    rbuild::cli::main()
}
