//! The built gateway between a real mosquitto and receivers that count.
//!
//! One program for all of them, so that they are linked once and run side by
//! side.

#![allow(clippy::unwrap_used)]

mod apply;
mod aws_over_mosquitto;
mod bus;
mod commands;
mod compared;
mod delivery;
mod file;
mod hostile_scripts;
mod journal;
mod many;
mod neighbours;
mod outages;
mod poison;
mod pressure;
mod reload;
mod renewal;
mod stuck;
mod traps;
mod unnoticed;
mod upgrade;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::receiver::{ACCESS_TOKEN, Kind, Receiver};

/// A broker, a gateway with one stream of the name `stream`, and where it
/// leads.
async fn one_stream(kind: Kind) -> (Broker, Gateway, Receiver) {
    let folder = Folder::new();
    let receiver = Receiver::start(kind, folder.path()).await;
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    (broker, gateway, receiver)
}

/// The same for a receiver that is there already.
async fn to_receiver(folder: Folder, receiver: &Receiver) -> (Broker, Gateway) {
    let broker = Broker::start().await;
    let folder =
        folder.bus(&broker.url()).env("ACCESS_TOKEN", ACCESS_TOKEN).stream("stream", &receiver.stream);
    (broker, folder.start().await)
}
