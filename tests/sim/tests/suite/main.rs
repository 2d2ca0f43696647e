//! Tests of the simulator, from outside: as clients see it.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a skipped test says so; a failed one panics"
)]

mod api;
mod data;
mod faults;
mod kubectl;
mod life;
mod portforward;
mod replay;
mod support;
