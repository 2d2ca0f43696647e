//! The controllers: after each change, and every now and then, each takes one step.
//!
//! A step changes an object by one state at most, so that watches see what they see on a real cluster.

pub(crate) mod actions;
mod claims;
mod clone;
mod export;
mod garbage;
pub(crate) mod hotplug;
mod kubelet;
pub(crate) mod links;
pub(crate) mod migration;
mod network;
mod restore;
mod snapshot;
mod source;
mod template;
pub(crate) mod vm;

use std::{sync::Arc, time::Duration};

use crate::world::{State, World};

/// How long the controllers rest when nothing happens.
const IDLE: Duration = Duration::from_millis(50);

/// Runs all controllers until the future is dropped.
pub(crate) async fn run(world: Arc<World>) {
    let mut changes = world.subscribe();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(IDLE) => {}
        }
        tokio::time::sleep(world.config.delay).await;
        changes.mark_unchanged();
        step(&world);
    }
}

/// One step of each controller.
fn step(world: &World) {
    let controllers: [fn(&World, &mut State); 12] = [
        |_, state| garbage::step(state),
        claims::step,
        vm::step,
        |_, state| migration::step(state),
        |_, state| hotplug::step(state),
        network::step,
        snapshot::step,
        restore::step,
        clone::step,
        template::step,
        export::step,
        kubelet::step,
    ];
    for controller in controllers {
        world.change(|state| {
            // Asked anew for each: a client may have come in between.
            if !state.is_held() {
                controller(world, state);
            }
        });
    }
}
