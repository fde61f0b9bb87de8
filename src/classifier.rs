//! A trained network on a device: pictures in, classes and probabilities out.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::backend::{Device, Program};
use crate::data;
use crate::error::{Error, Result};
use crate::formats::Checkpoint;
use crate::graph::ValueId;
use crate::models::eval_graph;
use crate::tensor::{Data, Tensor};

/// A checkpoint, ready to run in batches.
pub struct Classifier {
    checkpoint: Checkpoint,
    // Before the device: a program may hold on to what the device owns.
    program: Box<dyn Program>,
    _device: Box<dyn Device>,
    pictures: ValueId,
    batch: usize,
}

/// What the network makes of one picture.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The picture's file.
    pub path: PathBuf,
    /// Every class, the most probable first; or why the picture cannot be read.
    pub scores: Result<Vec<Score>, String>,
}

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// Name of the class.
    pub label: String,
    /// In [0, 1]; all classes sum to 1.
    pub probability: f64,
}

impl Classifier {
    /// Loads the checkpoint at `path` onto `device`, to run on up to `batch` pictures at a time.
    ///
    /// # Errors
    /// When the checkpoint cannot be read (see [`Checkpoint::load`]) or the device cannot hold or run the network.
    pub fn load(path: &Path, device: Box<dyn Device>, batch: usize) -> Result<Self> {
        Self::new(Checkpoint::load(path)?, device, batch)
    }

    /// Puts a checkpoint onto `device`. Its tensors are moved there: those in [`Classifier::checkpoint`] are gone.
    ///
    /// # Errors
    /// When the device cannot hold or run the network.
    pub fn new(mut checkpoint: Checkpoint, mut device: Box<dyn Device>, batch: usize) -> Result<Self> {
        let graph = eval_graph(&checkpoint.model, &checkpoint.build_options(batch))?;
        let mut tensors = std::mem::take(&mut checkpoint.tensors);
        for parameter in &graph.parameters {
            let missing = || Error::input(format!("the checkpoint has no tensor {}", parameter.name));
            device.set(&parameter.name, &tensors.remove(&parameter.name).ok_or_else(missing)?)?;
        }
        let program = device.compile(&graph.graph, &[graph.logits])?;
        Ok(Classifier { checkpoint, program, _device: device, pictures: graph.pictures, batch })
    }

    /// What the network is and how pictures reach it; without its tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Pictures in a run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Logits f32 [batch, classes] of pictures u8 [batch, H, W, 3], stored as the checkpoint's `stored_size` and `resize` say.
    ///
    /// # Errors
    /// When the tensor is of another type, or the device fails.
    pub fn logits(&mut self, pictures: &Tensor) -> Result<Tensor> {
        self.program.write(self.pictures, pictures)?;
        let ticket = self.program.submit()?;
        let outputs = self.program.outputs(ticket, true)?;
        outputs.and_then(|outputs| outputs.into_iter().next()).ok_or_else(|| Error::device("the device gave no logits"))
    }

    /// Classes and probabilities of picture files, in their order. A picture that cannot be read has the reason in its place.
    ///
    /// # Errors
    /// When the device fails.
    pub fn predict<P: AsRef<Path> + Sync>(&mut self, paths: &[P]) -> Result<Vec<Prediction>> {
        let [height, width] = self.checkpoint.stored_size;
        let bytes = height * width * 3;
        let mut predictions = Vec::with_capacity(paths.len());
        for paths in paths.chunks(self.batch) {
            let decode = |path: &P| data::decode(path.as_ref(), [height, width], self.checkpoint.resize);
            let decoded: Vec<Result<Vec<u8>, String>> = paths.par_iter().map(decode).collect();
            // Rows without a picture stay black, and their logits are not looked at.
            let mut pixels = vec![0; self.batch * bytes];
            for (row, picture) in pixels.chunks_mut(bytes).zip(&decoded) {
                if let Ok(picture) = picture {
                    row.copy_from_slice(picture);
                }
            }
            let pictures = Tensor::new([self.batch, height, width, 3], Data::U8(pixels)).map_err(Error::Input)?;
            let logits = self.logits(&pictures)?;
            let logits = logits.as_f32().ok_or_else(|| Error::device("the device gave logits that are not f32"))?;
            let rows = logits.chunks(self.checkpoint.classes.len());
            for ((path, picture), row) in paths.iter().zip(decoded).zip(rows) {
                let scores = picture.map(|_| self.scores(row));
                predictions.push(Prediction { path: path.as_ref().into(), scores });
            }
        }
        Ok(predictions)
    }

    fn scores(&self, logits: &[f32]) -> Vec<Score> {
        let named = self.checkpoint.classes.iter().zip(softmax(logits));
        let mut scores: Vec<Score> =
            named.map(|(label, probability)| Score { label: label.clone(), probability }).collect();
        // Stable, so that equals stay in the classes' order.
        scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        scores
    }
}

/// Probabilities of one row of logits.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let exp: Vec<f64> = logits.iter().map(|&x| (x as f64 - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_large_logits() {
        let p = softmax(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(p, [0.5, 0.5, 0.0]);
    }
}
