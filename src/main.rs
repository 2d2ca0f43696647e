//! The `vmferry` command: parse, run, exit.

mod cli;

use std::process::ExitCode;

use tokio::runtime::Builder;

/// Threads that drive sockets and timers. The heavy work has a pool of its own.
const IO_THREADS: usize = 2;

/// Threads for system calls that block: file reads and writes, name look-ups.
const MAX_BLOCKING_THREADS: usize = 32;

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("vmferry-io")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cli::cannot_start(&arguments, error),
    };
    let code = runtime.block_on(cli::run(arguments));
    // A thread may hang in a system call (a dead mount); the process does not wait for it.
    runtime.shutdown_background();
    code
}
