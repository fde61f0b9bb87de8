//! The tensors of a run, on the device and in checkpoints: parameters and optimizer state.

use std::path::Path;

use super::Job;
use super::position::Position;
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::formats::Checkpoint;
use crate::models::{MEAN_IMAGE, TrainGraph};
use crate::tensor::Tensor;

/// First weights, or pretrained ones where they fit, and optimizer state of zero.
pub(super) fn initialise(
    device: &mut dyn Device,
    graph: &TrainGraph,
    job: &Job,
    mean_image: Option<&Tensor>,
) -> Result<Position> {
    for parameter in &graph.parameters {
        let measured = mean_image.filter(|_| parameter.name == MEAN_IMAGE);
        match job.pretrained.as_ref().and_then(|pretrained| pretrained.get(parameter)).or(measured) {
            Some(tensor) => device.set(&parameter.name, tensor)?,
            None => device.set(&parameter.name, &parameter.initial(job.settings.seed)?)?,
        }
    }
    for (name, ty) in &graph.states {
        device.set(name, &Tensor::zeros(ty).map_err(Error::device)?)?;
    }
    Position::start(&job.settings, &job.dataset)
}

/// Weights, optimizer state and position of a checkpoint.
pub(super) fn restore(
    device: &mut dyn Device,
    checkpoint: Checkpoint,
    graph: &TrainGraph,
    job: &Job,
) -> Result<Position> {
    let position = Position::restore(&checkpoint.extra)?;
    position.check(job)?;
    let parameters = graph.parameters.iter().map(|p| (&p.name, &graph.graph[p.value].ty));
    for (name, ty) in parameters.chain(graph.states.iter().map(|(name, ty)| (name, ty))) {
        match checkpoint.tensors.get(name) {
            Some(tensor) if tensor.ty() == *ty => device.set(name, tensor)?,
            Some(tensor) => {
                let message = format!("the checkpoint's {name} is {}, the model's {}", tensor.shape(), ty.shape);
                return Err(Error::input(message));
            }
            None => {
                return Err(Error::input(format!(
                    "the checkpoint has no {name}: resume from a run's last.safetensors"
                )));
            }
        }
    }
    Ok(position)
}

/// Writes a checkpoint with the parameters, and the optimizer's state if wanted, one after the other. One that is not finite is an error: it
/// would take the place of the last good file.
pub(super) fn save(
    device: &mut dyn Device,
    graph: &TrainGraph,
    checkpoint: &Checkpoint,
    path: &Path,
    step: u64,
    with_state: bool,
) -> Result<()> {
    let parameters = graph.parameters.iter().map(|p| (&p.name, &graph.graph[p.value].ty));
    let states = graph.states.iter().map(|(name, ty)| (name, ty)).filter(|_| with_state);
    let types = parameters.chain(states).map(|(name, ty)| (name.clone(), ty.clone())).collect();
    checkpoint.save_each(path, &types, |name| {
        let tensor = device.get(name)?;
        match tensor.as_f32().unwrap_or_default().iter().find(|v| !v.is_finite()) {
            Some(&bad) => Err(Error::NotFinite { loss: bad, step }),
            None => Ok(tensor),
        }
    })
}
