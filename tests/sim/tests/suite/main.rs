//! Tests of the simulator, from outside: as clients see it.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped here is a failed test")]

mod api;
mod data;
mod faults;
mod kubectl;
mod life;
mod portforward;
mod replay;
mod support;
