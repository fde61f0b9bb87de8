//! What a step is given: pictures and labels, how they are mixed and what they count, the random counter.

use super::balance;
use super::mixing::{Mixing, Plan};
use super::{Balance, Job};
use crate::backend::Program;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::models::{LayerKind, TrainGraph};
use crate::ops::IGNORE;
use crate::ops::mix::PLAN;
use crate::tensor::{Data, Tensor};

/// What the inputs of a run's steps depend on beside their batches.
pub(super) struct Feed {
    seed: u64,
    /// What a picture of each class counts in the loss, if not all count alike.
    weights: Option<Vec<f32>>,
    mixing: Option<Mixing>,
    /// Whether rows see each other, so that those without a picture need one.
    by_batch: bool,
}

impl Feed {
    pub fn new(job: &Job) -> Feed {
        let balanced = job.settings.balance == Balance::Loss;
        Feed {
            seed: job.settings.seed,
            weights: balanced.then(|| balance::loss_weights(&job.dataset.train, job.dataset.classes.len())),
            mixing: Mixing::new(&job.settings, job.build_options(1).network_size(&job.model)),
            by_batch: job.model.layers.iter().any(|layer| matches!(layer.kind, LayerKind::BatchNorm { .. })),
        }
    }

    /// Writes all inputs of a step but the optimizer's schedule.
    pub fn write(&self, program: &mut dyn Program, graph: &TrainGraph, batch: &Batch, step: u64) -> Result<()> {
        match self.by_batch && batch.there().any(|there| !there) {
            true => program.write(graph.pictures, &filled(batch)?)?,
            false => program.write(graph.pictures, &batch.pictures)?,
        }
        program.write(graph.labels, &batch.labels)?;
        program.write(graph.counter, &counter(self.seed, step)?)?;
        let labels = batch.labels.as_u32().unwrap_or_default();
        let plan = self.plan(step, labels);
        if let Some(input) = graph.weights {
            let shares = plan.as_ref().map_or(vec![1.0; labels.len()], |plan| plan.shares.clone());
            program.write(input, &self.counted(labels, shares)?)?;
        }
        if let (Some(inputs), Some(Plan { numbers, others, shares })) = (graph.mixing, plan) {
            program.write(inputs.plan, &Tensor::f32([labels.len(), PLAN], numbers).map_err(Error::input)?)?;
            let rest = shares.into_iter().map(|share| 1.0 - share).collect();
            program.write(inputs.weights, &self.counted(&others, rest)?)?;
            program.write(inputs.labels, &Tensor::u32([labels.len()], others).map_err(Error::input)?)?;
        }
        Ok(())
    }

    /// How the pictures of a step are mixed, if they are.
    pub fn plan(&self, step: u64, labels: &[u32]) -> Option<Plan> {
        self.mixing.as_ref().map(|mixing| mixing.plan(self.seed, step, labels))
    }

    /// What rows of these labels count in the loss, f32 `[N]`, in these shares.
    fn counted(&self, labels: &[u32], mut shares: Vec<f32>) -> Result<Tensor> {
        if let Some(weights) = &self.weights {
            let of = |label: &u32| weights.get(*label as usize).copied().unwrap_or(0.0); // none without a picture
            shares.iter_mut().zip(labels).for_each(|(share, label)| *share *= of(label));
        }
        Tensor::f32([labels.len()], shares).map_err(Error::input)
    }
}

/// The random counter of a step.
pub(super) fn counter(seed: u64, step: u64) -> Result<Tensor> {
    Tensor::u32([4], vec![seed as u32, (seed >> 32) as u32, step as u32, 0]).map_err(Error::input)
}

/// The batch's pictures, those of rows without one again and again: batch normalisation sees every row, labelled or not, and
/// black ones would count as pictures.
pub(super) fn filled(batch: &Batch) -> Result<Tensor> {
    let (Data::U8(pixels), Data::U32(labels)) = (batch.pictures.data(), batch.labels.data()) else {
        return Err(Error::device("a batch has pictures of u8 and labels of u32"));
    };
    let size = pixels.len() / labels.len().max(1);
    let rows: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != IGNORE).collect();
    let mut others = rows.iter().cycle();
    let mut filled = pixels.clone();
    for row in (0..labels.len()).filter(|&row| labels[row] == IGNORE) {
        if let Some(&other) = others.next() {
            filled[row * size..][..size].copy_from_slice(&pixels[other * size..][..size]);
        }
    }
    Tensor::new(batch.pictures.shape().clone(), Data::U8(filled)).map_err(Error::input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_picture_repeat_the_others() {
        let pixels = (0..5).flat_map(|row| [row; 3]).collect();
        let batch = Batch {
            pictures: Tensor::new([5, 1, 1, 3], Data::U8(pixels)).unwrap(),
            labels: Tensor::u32([5], vec![IGNORE, 7, IGNORE, 2, IGNORE]).unwrap(),
            items: vec![None; 5],
            count: 2,
        };
        // Rows 1 and 3 stay; the others are these in turn.
        assert_eq!(filled(&batch).unwrap().bytes(), [1, 1, 3, 3, 1].map(|row| [row; 3]).concat());
    }
}
