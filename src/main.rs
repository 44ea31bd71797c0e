fn main() -> std::process::ExitCode {
    saas::cli::main()
}
