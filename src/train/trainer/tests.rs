//! The loop with a device that is slow, or fails: interruptions, the order of events.

use super::*;
use crate::backend::cpu::CpuDevice;
use crate::backend::{DeviceInfo, Finding, NodeTime};
use crate::data::sample::{self, SampleOptions};
use crate::data::{ScanOptions, scan};
use crate::graph::{Graph, ValueId};
use crate::models::Model;
use crate::train::Settings;
use std::path::Path;

/// The CPU backend, but no step is done before it is waited for.
struct Late(CpuDevice);
struct LateProgram(Box<dyn Program>);

impl Device for Late {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn probe(&mut self) -> Result<Vec<Finding>> {
        self.0.probe()
    }
    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.0.set(name, tensor)
    }
    fn get(&mut self, name: &str) -> Result<Tensor> {
        self.0.get(name)
    }
    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        Ok(Box::new(LateProgram(self.0.compile(graph, outputs)?)))
    }
}

impl Program for LateProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        self.0.write(input, tensor)
    }
    fn submit(&mut self) -> Result<Ticket> {
        self.0.submit()
    }
    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
        if wait { self.0.outputs(ticket, wait) } else { Ok(None) }
    }
    fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }
    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        self.0.profile()
    }
}

/// Trains for an epoch of 12 steps in `place`, on its `train` and `val`.
fn run(place: &Path, device: &mut dyn Device, stop: &AtomicBool, observe: &mut dyn FnMut(&Event)) -> Result<Outcome> {
    for (folder, count) in [("train", 12), ("val", 2)] {
        let options = SampleOptions { count, classes: 2, size: 32, seed: 1 };
        sample::write(&place.join("pictures").join(folder), &options)?;
    }
    let text = "model = 'four-layer'\nbatch_size = 2\nepochs = 1\nworkers = 1\ncache = 'off'\nwarmup_epochs = 0.0";
    let settings = Settings::merge([text.parse().unwrap()])?;
    let options = ScanOptions { split: 0.9, seed: 0, val: None, classes: None };
    let dataset = scan(&place.join("pictures"), &options)?;
    let job = Job::new(settings, Model::find("four-layer")?, dataset);
    train(job, None, device, &mut RunFolder::create(place, "run")?, stop, observe)
}

#[test]
fn an_interruption_waits_for_the_steps_in_flight_only() {
    let at_the_first_loss = |device: &mut dyn Device| {
        let (place, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
        let outcome = run(place.path(), device, &stop, &mut |event| {
            stop.fetch_or(matches!(event, Event::Step { .. }), Ordering::Relaxed);
        });
        outcome.unwrap().step
    };
    let cpu = || CpuDevice::new(Some(1)).unwrap();
    assert_eq!(at_the_first_loss(&mut cpu()), 1, "a loss that is there is told at once");
    assert_eq!(at_the_first_loss(&mut Late(cpu())), 1 + IN_FLIGHT as u64);
}

#[test]
fn events_come_in_order() {
    let (place, mut told) = (tempfile::tempdir().unwrap(), Vec::new());
    let device = &mut Late(CpuDevice::new(Some(1)).unwrap());
    let outcome = run(place.path(), device, &AtomicBool::new(false), &mut |event| match event {
        Event::Started { epoch: 1, epochs: 1, done: 0, iterations: 12 } => told.push(0),
        Event::Step { iteration, .. } => told.push(*iteration),
        _ => {}
    });
    assert_eq!(outcome.unwrap().stopped, Stopped::Epochs);
    assert_eq!(told, (0..=12).collect::<Vec<_>>());
}

#[test]
fn an_epoch_that_cannot_be_validated_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let device = &mut CpuDevice::new(Some(1)).unwrap();
    let outcome = run(place.path(), device, &AtomicBool::new(false), &mut |event| {
        if matches!(event, Event::Step { .. }) {
            for entry in std::fs::read_dir(place.path().join("pictures/val")).unwrap() {
                std::fs::write(entry.unwrap().path(), "no picture any more").unwrap();
            }
        }
    });
    assert!(outcome.unwrap_err().to_string().contains("no validation picture"));
    let last = Checkpoint::load(&place.path().join("run/last.safetensors")).unwrap();
    assert_eq!(Position::restore(&last.extra).unwrap().step, 12);
}
