//! Batch normalisation folded into the layer before it: in evaluation both are one linear function of each channel, so that a weight
//! and a bias can do what both did.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A batch normalisation that a network leaves out, since the layer before it does its work. [`Fold::apply`] makes that layer's weight
/// and bias of the tensors of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// The convolution or linear layer.
    pub layer: String,
    /// The batch normalisation.
    pub norm: String,
    /// What it adds to the variance.
    pub epsilon: f32,
    /// Whether the layer has a bias of its own. Folded it always has one.
    pub has_bias: bool,
}

impl Fold {
    /// Replaces the two layers' tensors by one weight and one bias, computed in f64.
    ///
    /// # Errors
    /// When a tensor is missing, or has another shape than the others.
    pub fn apply(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        let mut take = |layer: &str, name: &str| {
            let name = format!("{layer}.{name}");
            tensors.remove(&name).ok_or_else(|| Error::input(format!("the checkpoint has no tensor {name}")))
        };
        let weight = take(&self.layer, "weight")?;
        let bias = self.has_bias.then(|| take(&self.layer, "bias")).transpose()?;
        let [scale, shift, mean, variance] =
            ["weight", "bias", "running_mean", "running_var"].map(|name| take(&self.norm, name));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let channels = scale.shape().elements();
        let vector = |tensor: &Tensor| -> Result<Vec<f64>> {
            let values = tensor.as_f32().filter(|values| values.len() == channels);
            let values = values.ok_or_else(|| Error::shape(&self.norm, format!("expected {channels} f32 numbers")))?;
            Ok(values.iter().map(|&v| v as f64).collect())
        };
        let [scale, shift, mean, variance] = [vector(&scale)?, vector(&shift)?, vector(&mean)?, vector(&variance)?];
        let bias = bias.as_ref().map(vector).transpose()?.unwrap_or_else(|| vec![0.0; channels]);
        let factor: Vec<f64> =
            scale.iter().zip(&variance).map(|(scale, v)| scale / (v + self.epsilon as f64).sqrt()).collect();
        let row = weight.shape().elements() / channels.max(1);
        let mut values = weight.as_f32().unwrap_or_default().to_vec();
        for (row, factor) in values.chunks_mut(row.max(1)).zip(&factor) {
            row.iter_mut().for_each(|v| *v = (*v as f64 * factor) as f32);
        }
        let bias = (0..channels).map(|c| (shift[c] + (bias[c] - mean[c]) * factor[c]) as f32).collect();
        let wrong = |message: String| Error::shape(&self.layer, message);
        let folded = Tensor::f32(weight.shape().clone(), values).map_err(wrong)?;
        tensors.insert(format!("{}.weight", self.layer), folded);
        tensors.insert(format!("{}.bias", self.layer), Tensor::f32([channels], bias).map_err(wrong)?);
        Ok(())
    }
}
