//! From a model file to the forward part of a graph: pictures -> augment -> layers -> logits.

use std::collections::HashMap;

use super::layer::Features;
use super::parse::INPUT;
use super::see::{MEAN_IMAGE, Seen};
use super::{Bias, BuildOptions, Fold, Init, Initial, Layer, LayerKind, LayerScales, Model, Parameter, ParameterKind};
use crate::error::{Error, Result};
use crate::graph::{Graph, Role, ValueId};
use crate::ops::{
    self, Activation, ActivationKind, Add, AvgPool2d, BatchNorm, BatchNormInference, Concat, Conv2d, Dropout,
    DropoutScaling, Linear, Lrn, MaxPool2d, Op, Reshape, RunningAverage, Scale, Strip,
};
use crate::rng::stream;
use crate::tensor::{Shape, TensorType};

/// Elements that no tensor of a network may have more of: 16 GiB of f32. It keeps sizes from overflowing and catches typing errors.
const MAX_ELEMENTS: usize = 1 << 32;

/// Training or evaluation: dropout and augmentation differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Random crops and flips, dropout.
    Training,
    /// The centre of the picture, nothing dropped.
    Evaluation,
}

/// The forward part of a graph.
#[derive(Clone, Debug)]
pub struct Network {
    /// Input `pictures`: u8 [N, H, W, 3].
    pub pictures: ValueId,
    /// Input `counter`: `u32 [4] = [seed low, seed high, step, 0]`.
    pub counter: ValueId,
    /// Input `mixing`: f32 `[N, 5]`, the plan of [`ops::Mix`], with [`BuildOptions::mixed`] in training.
    pub mixing: Option<ValueId>,
    /// f32 [N, classes].
    pub logits: ValueId,
    /// In the model's order: of each layer weight, then bias, then statistics; the mean image last.
    pub parameters: Vec<Parameter>,
    /// One per layer of the model.
    pub layers: Vec<LayerInfo>,
    /// Batch normalisations left out, with [`BuildOptions::fold`].
    pub folds: Vec<Fold>,
}

/// A layer of a built network, for tables.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerInfo {
    /// The layer's name.
    pub name: String,
    /// Its kind.
    pub op: &'static str,
    /// Output of one picture: `[C, H, W]` or `[features]`.
    pub output: Vec<usize>,
    /// Number of values in its parameters, statistics left out.
    pub parameters: u64,
    /// Multiply-accumulates of one picture's forward pass.
    pub macs: u64,
    /// Whether training leaves its parameters as they are.
    pub frozen: bool,
}

impl Model {
    /// Appends the network to `graph`.
    ///
    /// # Errors
    /// [`Error::Shape`] with the layer's name when a layer cannot take what the one before gives;
    /// [`Error::Input`] when an option is out of range.
    pub fn build(&self, graph: &mut Graph, options: &BuildOptions, phase: Phase) -> Result<Network> {
        let Seen { pictures, counter, mixing, mean_image, x } = self.see(graph, options, phase)?;
        let mut builder = Builder {
            model: self,
            options,
            phase,
            graph,
            counter,
            x,
            outputs: HashMap::from([(INPUT, x)]),
            parameters: Vec::new(),
            folds: Vec::new(),
            dropouts: 0,
        };
        let mut layers = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            layers.push(builder.layer(number).map_err(|e| self.explain(e, layer, options))?);
        }
        let Builder { x: logits, mut parameters, folds, graph, .. } = builder;
        if let Some(value) = mean_image {
            let (number, shape) = (parameters.len() as u32, graph[value].ty.shape.clone());
            let (initial, kind) = (Initial::Constant(0.0), ParameterKind::Statistic);
            let (name, scales) = (MEAN_IMAGE.into(), LayerScales::default());
            parameters.push(Parameter { value, name, shape, number, initial, kind, scales });
        }
        let expected = Shape::from([options.batch, options.classes]);
        if graph[logits].ty.shape != expected {
            let last = &self.layers[self.layers.len() - 1];
            let got = &graph[logits].ty.shape;
            let message =
                format!("the last layer gives {got}, expected {expected}: end with linear, out = \"classes\"");
            return Err(Error::shape(last.placed(&last.name), message));
        }
        Ok(Network { pictures, counter, mixing, logits, parameters, layers, folds })
    }

    /// Says where a shape error is, and of one in a picture smaller than the model was made for that this is the reason.
    fn explain(&self, error: Error, at: &Layer, options: &BuildOptions) -> Error {
        let Error::Shape { layer, message } = error else { return error };
        let [height, width] = options.network_size(self);
        let message = match height < self.input[1] || width < self.input[2] {
            true => {
                let [_, h, w] = self.input;
                let hint = format!("the picture of {height}x{width} is too small for {}, made for {h}x{w}", self.name);
                format!("{message} ({hint}; use a larger --image-size)")
            }
            false => message,
        };
        let layer = if layer == at.name { format!("{layer} ({})", at.kind.name()) } else { layer };
        Error::shape(at.placed(&layer), message)
    }

    /// Names of what layer `number` reads.
    fn sources(&self, number: usize) -> Vec<&str> {
        let layer = &self.layers[number];
        let before = number.checked_sub(1).map_or(INPUT, |before| &self.layers[before].name);
        let named = layer.from.iter().map(String::as_str);
        match layer.from.len() {
            0 => vec![before],
            1 if layer.kind.joins() => [before].into_iter().chain(named).collect(),
            _ => named.collect(),
        }
    }

    /// Numbers of the layers that read layer `number`.
    pub(super) fn readers(&self, number: usize) -> Vec<usize> {
        let name = self.layers[number].name.as_str();
        (number + 1..self.layers.len()).filter(|&reader| self.sources(reader).contains(&name)).collect()
    }
}

/// The state of a walk over the layers.
struct Builder<'a> {
    model: &'a Model,
    options: &'a BuildOptions,
    phase: Phase,
    graph: &'a mut Graph,
    counter: ValueId,
    /// What the layer reads, then gives.
    x: ValueId,
    /// By the layers' names.
    outputs: HashMap<&'a str, ValueId>,
    parameters: Vec<Parameter>,
    folds: Vec<Fold>,
    dropouts: u32,
}

impl<'a> Builder<'a> {
    /// Appends one layer; its output becomes `x`.
    fn layer(&mut self, number: usize) -> Result<LayerInfo> {
        let (model, first) = (self.model, self.parameters.len());
        let layer = &model.layers[number];
        let sources: Vec<ValueId> = model.sources(number).into_iter().map(|name| self.outputs[name]).collect();
        self.x = sources[0];
        let input = self.graph[self.x].ty.clone();
        let name = &layer.name;
        let mut macs = 0;
        match layer.kind {
            LayerKind::Conv2d { out, kernel, stride, padding, dilation, groups, bias, init } => {
                let [r, s] = kernel.into();
                let (out, groups) = (out as usize, groups.into());
                let [_, channels, _, _] = input.shape.nchw().map_err(|m| Error::shape(name, m))?;
                if groups == 0 || channels % groups != 0 || out % groups != 0 {
                    let message =
                        format!("{channels} input and {out} output channels cannot be divided into {groups} groups");
                    return Err(Error::shape(name, message));
                }
                let op = Conv2d { stride: stride.into(), padding: padding.into(), dilation: dilation.into(), groups };
                macs = self.weighted(number, op.into(), [out, channels / groups, r, s].into(), bias, init)?;
            }
            LayerKind::Linear { out, bias, init } => {
                let [_, features] = input.shape.matrix().map_err(|m| {
                    Error::shape(name, format!("{m}: put a layer of kind \"flatten\" before the first linear one"))
                })?;
                let out = match out {
                    Features::Number(out) => out as usize,
                    Features::Named(_) => self.options.classes,
                };
                macs = self.weighted(number, Linear.into(), [out, features].into(), bias, init)?;
            }
            LayerKind::Activation {} => self.activation(layer, self.model.activation)?,
            LayerKind::Relu {} => self.activation(layer, ActivationKind::Relu)?,
            LayerKind::Sigmoid {} => self.activation(layer, ActivationKind::Sigmoid)?,
            LayerKind::Tanh {} => self.activation(layer, ActivationKind::Tanh)?,
            LayerKind::LeakyRelu {} => self.activation(layer, ActivationKind::LeakyRelu)?,
            LayerKind::Gelu {} => self.activation(layer, ActivationKind::Gelu)?,
            LayerKind::Lrn { size, alpha, beta, k, groups } => {
                self.apply(layer, Lrn { size: size.into(), alpha, beta, k, groups: groups.into() })?
            }
            LayerKind::MaxPool2d { kernel, stride, padding, ceil_mode } => {
                let (stride, kernel) = (stride.unwrap_or(kernel).into(), kernel.into());
                self.apply(layer, MaxPool2d { kernel, stride, padding: padding.into(), ceil_mode })?;
            }
            LayerKind::AvgPool2d { kernel, stride, padding, ceil_mode, count_include_pad } => {
                let (stride, kernel) = (stride.unwrap_or(kernel).into(), kernel.into());
                self.apply(layer, AvgPool2d { kernel, stride, padding: padding.into(), ceil_mode, count_include_pad })?;
            }
            LayerKind::GlobalAvgPool2d {} => self.average(layer, &input, [1, 1])?,
            LayerKind::AdaptiveAvgPool2d { output } => self.average(layer, &input, output.into())?,
            LayerKind::BatchNorm { epsilon, momentum } => self.batch_norm(layer, &input.shape, epsilon, momentum)?,
            LayerKind::Add {} => {
                for &other in &sources[1..] {
                    self.x = self.graph.apply(name, Add, &[self.x, other])?;
                }
            }
            LayerKind::Concat {} => {
                // A value that is no [N, C, ...] the op refuses.
                let channels = sources.iter().map(|&v| self.graph[v].ty.shape.get(1).copied().unwrap_or(0)).collect();
                self.x = self.graph.apply(name, Concat { channels }, &sources)?;
                check_size(name, &self.graph[self.x].ty.shape)?;
            }
            LayerKind::Dropout { rate } => self.dropout(layer, self.options.dropout.unwrap_or(rate))?,
            LayerKind::Flatten {} => {
                let batch = self.options.batch;
                let shape = [batch, input.shape.elements() / batch].into();
                self.apply(layer, Reshape { shape })?;
            }
        }
        self.outputs.insert(name, self.x);
        let parameters = &self.parameters[first..];
        Ok(LayerInfo {
            name: name.clone(),
            op: match layer.kind {
                LayerKind::Activation {} => self.model.activation.name(),
                _ => layer.kind.name(),
            },
            output: self.graph[self.x].ty.shape[1..].to_vec(),
            parameters: parameters.iter().filter(|p| p.is_trained()).map(|p| p.shape.elements() as u64).sum(),
            macs: macs / self.options.batch as u64,
            frozen: !parameters.is_empty() && parameters.iter().all(Parameter::is_frozen),
        })
    }

    /// A layer with a weight, and a bias when it has one. Returns the multiply-accumulates of the whole batch.
    fn weighted(&mut self, number: usize, op: Op, shape: Shape, bias: Bias, init: Option<Init>) -> Result<u64> {
        let layer = &self.model.layers[number];
        let fan_in: usize = shape[1..].iter().product();
        let out = shape[0];
        let last = self.model.layers.iter().rev().find(|l| l.kind.has_weight()).is_some_and(|l| l.name == layer.name);
        let scheme = self.options.init.or(init).unwrap_or(self.model.init);
        let first = scheme.weight(fan_in, last);
        let weight = self.parameter(layer, "weight", shape, first, ParameterKind::Weight)?;
        let inputs = [self.graph[self.x].ty.clone(), self.graph[weight].ty.clone()];
        self.x = self.graph.apply(&layer.name, op.clone(), &[self.x, weight])?;
        check_size(&layer.name, &self.graph[self.x].ty.shape)?;
        let folded = self.fold(number, bias.start().is_some());
        if bias.start().is_some() || folded {
            // A scheme that replaces the model's replaces its biases too: they belong together.
            let start = match (bias, self.options.init) {
                (Bias::Start(start), None) => Initial::Constant(start),
                _ => scheme.bias(fan_in),
            };
            let bias = self.parameter(layer, "bias", [out].into(), start, ParameterKind::Bias)?;
            self.x = self.graph.apply(&layer.name, ops::Bias, &[self.x, bias])?;
        }
        Ok(op.macs(&inputs))
    }

    /// Whether the one reader of layer `number` is a batch normalisation that can be folded into it; then it will be.
    fn fold(&mut self, number: usize, has_bias: bool) -> bool {
        let model = self.model;
        let [reader] = model.readers(number)[..] else { return false };
        let (layer, norm) = (model.layers[number].name.clone(), model.layers[reader].name.clone());
        match model.layers[reader].kind {
            LayerKind::BatchNorm { epsilon, .. } if self.options.fold && self.phase == Phase::Evaluation => {
                self.folds.push(Fold { layer, norm, epsilon, has_bias });
                true
            }
            _ => false,
        }
    }

    /// In training by the batch's statistics, which the running averages follow; in evaluation, and where the layer is frozen, by these.
    fn batch_norm(&mut self, layer: &Layer, x: &Shape, epsilon: f32, momentum: f32) -> Result<()> {
        let name = &layer.name;
        if self.folds.iter().any(|fold| fold.norm == *name) {
            return Ok(());
        }
        if x.len() < 2 {
            return Err(Error::shape(name, format!("expected an input [N, C] or [N, C, H, W], got {x}")));
        }
        let (channels, each) = (x[1], x.elements() / x[1].max(1));
        let mut vector =
            |what: &str, start, kind| self.parameter(layer, what, [channels].into(), Initial::Constant(start), kind);
        let weight = vector("weight", 1.0, ParameterKind::Scale)?;
        let bias = vector("bias", 0.0, ParameterKind::Bias)?;
        let mean = vector("running_mean", 0.0, ParameterKind::Statistic)?;
        let variance = vector("running_var", 1.0, ParameterKind::Statistic)?;
        if self.phase == Phase::Evaluation || layer.scales.lr_scale == 0.0 {
            let inputs = [self.x, weight, bias, mean, variance];
            self.x = self.graph.apply(name, BatchNormInference { epsilon }, &inputs)?;
            return Ok(());
        }
        if each < 2 {
            let message = "a channel has one value in the batch, which has no variance: raise --batch-size";
            return Err(Error::shape(name, message));
        }
        let outputs = self.graph.apply_all(name, BatchNorm { epsilon }, &[self.x, weight, bias])?;
        // The average is of the estimated variance of all pictures, as in PyTorch.
        let unbiased = (each as f64 / (each as f64 - 1.0)) as f32;
        for (average, measured, factor) in [(mean, outputs[1], 1.0), (variance, outputs[2], unbiased)] {
            self.graph.apply(name, RunningAverage { momentum, factor }, &[average, measured])?;
        }
        self.x = outputs[0];
        Ok(())
    }

    /// Means of `output` windows, PyTorch's; nothing to do where the picture has that size.
    fn average(&mut self, layer: &Layer, x: &TensorType, output: [usize; 2]) -> Result<()> {
        let [_, _, h, w] = x.shape.nchw().map_err(|m| Error::shape(&layer.name, m))?;
        let (Some((r, down)), Some((s, right))) = (equal_windows(h, output[0]), equal_windows(w, output[1])) else {
            let [p, q] = output;
            let message = format!("{h}x{w} cannot be divided into {p}x{q} equal windows; change --image-size");
            return Err(Error::shape(&layer.name, message));
        };
        let (kernel, stride) = ([r, s], [down, right]);
        let pool = AvgPool2d { kernel, stride, padding: [0, 0], ceil_mode: false, count_include_pad: true };
        if [h, w] == output { Ok(()) } else { self.apply(layer, pool) }
    }

    fn parameter(
        &mut self,
        layer: &Layer,
        what: &str,
        shape: Shape,
        initial: Initial,
        kind: ParameterKind,
    ) -> Result<ValueId> {
        let name = format!("{}.{what}", layer.name);
        if shape.contains(&0) {
            return Err(Error::shape(name, format!("{shape} is empty: every size must be 1 or more")));
        }
        check_size(&name, &shape)?;
        let role = if kind == ParameterKind::Statistic { Role::State } else { Role::Parameter };
        let value = self.graph.source(&name, TensorType::f32(shape.clone()), role)?;
        let number = self.parameters.len() as u32;
        self.parameters.push(Parameter { value, name, shape, number, initial, kind, scales: layer.scales });
        Ok(value)
    }

    fn activation(&mut self, layer: &Layer, kind: ActivationKind) -> Result<()> {
        self.apply(layer, Activation { kind })
    }

    /// In training the op, in evaluation what its scaling asks for. Every layer has its own random stream, dropped or not.
    fn dropout(&mut self, layer: &Layer, rate: f32) -> Result<()> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::shape(&layer.name, format!("rate = {rate}: expected a number in [0, 1)")));
        }
        let stream = stream::DROPOUT + self.dropouts;
        self.dropouts += 1;
        let scaling = self.options.dropout_scaling;
        if rate == 0.0 {
            return Ok(());
        }
        match (self.phase, scaling) {
            (Phase::Training, _) => {
                let op = Dropout { rate, stream, scaling, part: Strip::WHOLE };
                self.x = self.graph.apply(&layer.name, op, &[self.x, self.counter])?;
                Ok(())
            }
            (Phase::Evaluation, DropoutScaling::Paper) => self.apply(layer, Scale { factor: 1.0 - rate }),
            (Phase::Evaluation, DropoutScaling::Inverted) => Ok(()),
        }
    }

    fn apply(&mut self, layer: &Layer, op: impl Into<Op>) -> Result<()> {
        self.x = self.graph.apply(&layer.name, op, &[self.x])?;
        check_size(&layer.name, &self.graph[self.x].ty.shape)
    }
}

/// Length and step of the windows by which adaptive pooling makes `output` of `input` elements, where both are the same for all windows.
/// Window i is [floor(i input / output), ceil((i + 1) input / output)), as PyTorch's `adaptive_avg_pool2d` has it.
fn equal_windows(input: usize, output: usize) -> Option<(usize, usize)> {
    let window = |i: usize| (i * input / output, ((i + 1) * input).div_ceil(output));
    let (_, length) = (output > 0 && output <= input).then(|| window(0))?;
    let step = if output > 1 { window(1).0 } else { length };
    (0..output).all(|i| window(i) == (i * step, i * step + length)).then_some((length, step))
}

/// Refuses a tensor of more than [`MAX_ELEMENTS`].
pub(super) fn check_size(name: &str, shape: &Shape) -> Result<()> {
    match shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent)) {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(Error::shape(name, format!("{shape} is too large: at most {MAX_ELEMENTS} elements"))),
    }
}

#[cfg(test)]
mod tests;
