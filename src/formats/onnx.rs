//! Trained networks as ONNX files (onnx.ai), which other runtimes run: from pictures of the stored size to probabilities, so that whoever
//! uses one has to decode and resize them as the metadata says, and nothing else.
//!
//! What is translated is the graph that `predict` runs, node by node. Operator set 17, of 2022: there are few runtimes that do not know it.

mod wire;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use super::{Checkpoint, atomic};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, ValueId};
use crate::models::{BuildOptions, MEAN_IMAGE, Parameter, eval_graph};
use crate::ops::window::Window;
use crate::ops::{Activation, ActivationKind, Augment, AvgPool2d, Conv2d, LEAKY_SLOPE, Lrn, Op, Product};
use crate::tensor::Tensor;
use wire::Message;

/// Version of the file format: that which came with [`OPERATOR_SET`].
const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 17;
/// Readers refuse longer messages.
const MOST_BYTES: usize = i32::MAX as usize;
/// Names of the input and the outputs.
const PICTURES: &str = "pictures";
const LOGITS: &str = "logits";
const PROBABILITIES: &str = "probabilities";

/// ONNX's numbers of element types.
enum Element {
    F32 = 1,
    U8 = 2,
    I64 = 7,
}

impl Checkpoint {
    /// Writes the network as an ONNX file, whole or not at all. Input `pictures`: u8 [N, H, W, 3], RGB, of [`Checkpoint::stored_size`], N any.
    /// Outputs: `logits` and `probabilities`, f32 [N, classes]. The metadata are the checkpoint's own. Batch normalisation is folded into
    /// the layer before it where it can be.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written; [`Error::Input`] when it would have more than the 2 GiB that the format allows.
    pub fn save_onnx(mut self, path: &Path) -> Result<()> {
        let mut tensors = std::mem::take(&mut self.tensors);
        self.extra.clear(); // where a run stood
        let options = BuildOptions { fold: true, ..self.build_options(1) };
        let network = eval_graph(&self.model, &options)?;
        network.folds.iter().try_for_each(|fold| fold.apply(&mut tensors))?;
        let mut translation = Translation::new(&network.graph, &tensors);
        translation.names.insert(network.pictures, PICTURES.into());
        for parameter in network.parameters.iter().filter(|parameter| parameter.name != MEAN_IMAGE) {
            translation.parameter(parameter)?;
        }
        for node in &network.graph.nodes {
            translation.translate(node)?;
        }
        let logits = translation.names[&network.logits].clone();
        translation.append(("Identity", LOGITS), &[&logits], vec![], LOGITS.into());
        translation.append(("Softmax", PROBABILITIES), &[LOGITS], vec![integer("axis", 1)], PROBABILITIES.into());
        let [height, width] = self.stored_size;
        let classes = self.classes.len();
        let about = format!("RGB pixels, 0 to 255, of a picture of {height}x{width}: a batch of any size");
        let graph = Message::default()
            .messages(1, translation.nodes)
            .text(2, &self.model.name)
            .messages(5, translation.initializers)
            .message(11, value_info(PICTURES, Element::U8, &[height, width, 3], &about))
            .message(12, value_info(LOGITS, Element::F32, &[classes], "before softmax"))
            .message(12, value_info(PROBABILITIES, Element::F32, &[classes], "of each class"));
        let entry = |(key, value): (String, String)| Message::default().text(1, &key).text(2, &value);
        let model = Message::default()
            .integer(1, IR_VERSION)
            .text(2, "convoy")
            .text(3, env!("CARGO_PKG_VERSION"))
            .text(6, &self.model.about)
            .message(7, graph)
            .message(8, Message::default().text(1, "").integer(2, OPERATOR_SET))
            .messages(14, self.metadata()?.into_iter().map(entry));
        if model.length() > MOST_BYTES {
            let message = "the network has more than the 2 GiB that an ONNX file can hold; export it as .safetensors";
            return Err(Error::input(format!("{}: {message}", path.display())));
        }
        atomic::write(path, |file| model.pieces().try_for_each(|piece| file.write_all(piece)))
    }
}

/// The graph as it is being translated.
struct Translation<'a> {
    graph: &'a Graph,
    tensors: &'a BTreeMap<String, Tensor>,
    /// Of the values that have been met.
    names: HashMap<ValueId, String>,
    taken: HashSet<String>,
    nodes: Vec<Message<'a>>,
    initializers: Vec<Message<'a>>,
}

impl<'a> Translation<'a> {
    fn new(graph: &'a Graph, tensors: &'a BTreeMap<String, Tensor>) -> Self {
        let taken = [PICTURES, LOGITS, PROBABILITIES].into_iter().map(String::from).collect();
        let (names, nodes, initializers) = (HashMap::new(), Vec::new(), Vec::new());
        Translation { graph, tensors, names, taken, nodes, initializers }
    }

    /// Appends what computes the outputs of `node`.
    fn translate(&mut self, node: &Node) -> Result<()> {
        let layer = &node.layer;
        let x = match &node.op {
            Op::Augment(augment) => self.augment(layer, augment, node)?,
            Op::Conv2d(conv) => self.conv(layer, conv, node)?,
            Op::Linear(_) => self.linear(layer, node)?,
            Op::Biased(biased) => {
                let sums = match &biased.product {
                    Product::Conv2d(conv) => self.conv(layer, conv, node)?,
                    Product::Linear(_) => self.linear(layer, node)?,
                };
                if biased.relu { self.activation(layer, ActivationKind::Relu, &sums) } else { sums }
            }
            Op::Activation(Activation { kind }) => {
                let x = self.input(node);
                self.activation(layer, *kind, &x)
            }
            Op::Lrn(lrn) => self.lrn(layer, lrn, node)?,
            Op::MaxPool2d(pool) => {
                let [_, _, height, width] = self.shape(node)?;
                let attributes = self.window(pool.window(), [height, width], node);
                self.node(layer, "MaxPool", &self.inputs(node), attributes)
            }
            Op::AvgPool2d(pool) => self.avg_pool(layer, pool, node)?,
            Op::BatchNormInference(norm) => {
                self.node(layer, "BatchNormalization", &self.inputs(node), vec![float("epsilon", norm.epsilon)])
            }
            Op::Add(_) => self.node(layer, "Add", &self.inputs(node), vec![]),
            Op::Concat(_) => self.node(layer, "Concat", &self.inputs(node), vec![integer("axis", 1)]),
            Op::Reshape(reshape) if reshape.shape.len() == 2 => {
                self.node(layer, "Flatten", &self.inputs(node), vec![integer("axis", 1)])
            }
            Op::Scale(scale) => {
                let (x, factor) = (self.input(node), self.scalar(layer, scale.factor));
                self.node(layer, "Mul", &[&x, &factor], vec![])
            }
            other => {
                let hint = format!("{layer} is no part of an evaluation; this is a fault of convoy");
                return Err(Error::Unsupported { op: other.name().into(), by: "ONNX".into(), hint });
            }
        };
        self.names.insert(node.outputs[0], x);
        Ok(())
    }

    /// The centre of the pictures, normalised.
    fn augment(&mut self, layer: &str, augment: &Augment, node: &Node) -> Result<String> {
        let stored = &self.graph[node.inputs[0]].ty.shape;
        let (stored, [height, width]) = ([stored[1], stored[2]], augment.output);
        let [top, left] = [(stored[0] - height) / 2, (stored[1] - width) / 2];
        let mut x = self.input(node);
        if stored != augment.output {
            let starts = self.integers(layer, &[top, left].map(|n| n as i64));
            let ends = self.integers(layer, &[top + height, left + width].map(|n| n as i64));
            let axes = self.integers(layer, &[1, 2]);
            x = self.node(layer, "Slice", &[&x, &starts, &ends, &axes], vec![]);
        }
        let x = self.node(layer, "Cast", &[&x], vec![integer("to", Element::F32 as i64)]);
        let x = self.node(layer, "Transpose", &[&x], vec![integers("perm", &[0, 3, 1, 2])]);
        let (shape, mean) = match augment.mean_image {
            true => {
                let image = self.tensor(MEAN_IMAGE)?.as_f32().unwrap_or_default();
                let row = |channel: usize, row: usize| (channel * stored[0] + row) * stored[1] + left;
                let rows = (0..3).flat_map(|channel| (top..top + height).map(move |y| row(channel, y)));
                ([3, height, width], rows.flat_map(|at| &image[at..at + width]).copied().collect())
            }
            false => ([3, 1, 1], augment.mean.to_vec()),
        };
        let mean: Vec<f32> = mean.into_iter().map(|mean: f32| 255.0 * mean).collect();
        let mean = self.numbers(layer, &shape, &mean);
        let x = self.node(layer, "Sub", &[&x, &mean], vec![]);
        let deviation = self.numbers(layer, &[3, 1, 1], &augment.std.map(|std| 255.0 * std));
        Ok(self.node(layer, "Div", &[&x, &deviation], vec![]))
    }

    /// With a bias where the node has one.
    fn conv(&mut self, layer: &str, conv: &Conv2d, node: &Node) -> Result<String> {
        let [down, right] = conv.padding;
        let attributes = vec![
            integers("dilations", &conv.dilation),
            integer("group", conv.groups as i64),
            integers("kernel_shape", &self.graph[node.inputs[1]].ty.shape[2..]),
            integers("pads", &[down, right, down, right]),
            integers("strides", &conv.stride),
        ];
        Ok(self.node(layer, "Conv", &self.inputs(node), attributes))
    }

    /// With a bias where the node has one.
    fn linear(&mut self, layer: &str, node: &Node) -> Result<String> {
        Ok(self.node(layer, "Gemm", &self.inputs(node), vec![integer("transB", 1)]))
    }

    fn activation(&mut self, layer: &str, kind: ActivationKind, x: &str) -> String {
        match kind {
            ActivationKind::Relu => self.node(layer, "Relu", &[x], vec![]),
            ActivationKind::Sigmoid => self.node(layer, "Sigmoid", &[x], vec![]),
            ActivationKind::Tanh => self.node(layer, "Tanh", &[x], vec![]),
            ActivationKind::LeakyRelu => self.node(layer, "LeakyRelu", &[x], vec![float("alpha", LEAKY_SLOPE)]),
            // An operator of its own it is since set 20.
            ActivationKind::Gelu => {
                let [root, one, half] = [2.0_f32.sqrt(), 1.0, 0.5].map(|number| self.scalar(layer, number));
                let scaled = self.node(layer, "Div", &[x, &root], vec![]);
                let erf = self.node(layer, "Erf", &[&scaled], vec![]);
                let twice_below = self.node(layer, "Add", &[&erf, &one], vec![]);
                let below = self.node(layer, "Mul", &[&twice_below, &half], vec![]);
                self.node(layer, "Mul", &[x, &below], vec![])
            }
        }
    }

    /// ONNX's alpha is divided by the size. Groups become pictures of their own for the while.
    fn lrn(&mut self, layer: &str, lrn: &Lrn, node: &Node) -> Result<String> {
        let [_, channels, height, width] = self.shape(node)?;
        let attributes = vec![
            float("alpha", lrn.alpha * lrn.size as f32),
            float("beta", lrn.beta),
            float("bias", lrn.k),
            integer("size", lrn.size as i64),
        ];
        let x = self.input(node);
        if lrn.groups == 1 {
            return Ok(self.node(layer, "LRN", &[&x], attributes));
        }
        let [apart, together] = [channels / lrn.groups, channels]
            .map(|channels| self.integers(layer, &[-1, channels as i64, height as i64, width as i64]));
        let apart = self.node(layer, "Reshape", &[&x, &apart], vec![]);
        let normal = self.node(layer, "LRN", &[&apart], attributes);
        Ok(self.node(layer, "Reshape", &[&normal, &together], vec![]))
    }

    /// Where padding counts it is put around the picture before, and what lies beyond never counts: so no runtime's own rule for windows that
    /// reach over the edge matters.
    fn avg_pool(&mut self, layer: &str, pool: &AvgPool2d, node: &Node) -> Result<String> {
        let mut x = self.input(node);
        let [_, _, mut height, mut width] = self.shape(node)?;
        let mut window = pool.window();
        let [down, right] = std::mem::take(&mut window.padding);
        match pool.count_include_pad && [down, right] != [0, 0] {
            true => {
                let pads = self.integers(layer, &[0, 0, down, right, 0, 0, down, right].map(|n| n as i64));
                x = self.node(layer, "Pad", &[&x, &pads], vec![]);
                [height, width] = [height + 2 * down, width + 2 * right];
            }
            false => window.padding = [down, right],
        }
        let mut attributes = self.window(window, [height, width], node);
        attributes.push(integer("count_include_pad", 0));
        Ok(self.node(layer, "AveragePool", &[&x], attributes))
    }

    /// Attributes of a pool of planes of this size. Outputs' sizes are always rounded down: where they were rounded up, there is more
    /// padding at the end.
    fn window(&self, window: Window, input: [usize; 2], node: &Node) -> Vec<Message<'a>> {
        let output = &self.graph[node.outputs[0]].ty.shape;
        let end = |axis: usize| {
            let reach = (output[2 + axis] - 1) * window.stride[axis] + window.kernel[axis];
            reach.saturating_sub(input[axis] + window.padding[axis]).max(window.padding[axis])
        };
        vec![
            integers("kernel_shape", &window.kernel),
            integers("pads", &[window.padding[0], window.padding[1], end(0), end(1)]),
            integers("strides", &window.stride),
        ]
    }

    /// The four extents of what a node reads.
    fn shape(&self, node: &Node) -> Result<[usize; 4]> {
        self.graph[node.inputs[0]].ty.shape.nchw().map_err(|m| Error::shape(&node.layer, m))
    }

    /// The name of what a node reads first.
    fn input(&self, node: &Node) -> String {
        self.names[&node.inputs[0]].clone()
    }

    /// The names of what a node reads.
    fn inputs(&self, node: &Node) -> Vec<String> {
        node.inputs.iter().map(|id| self.names[id].clone()).collect()
    }

    fn parameter(&mut self, parameter: &Parameter) -> Result<()> {
        let tensor = self.tensor(&parameter.name)?;
        let name = self.free(&parameter.name);
        self.initializer(&name, Element::F32, tensor.shape(), tensor.bytes());
        self.names.insert(parameter.value, name);
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&'a Tensor> {
        let missing = || Error::input(format!("the checkpoint has no tensor {name}"));
        self.tensors.get(name).ok_or_else(missing)
    }

    /// `wanted`, or with a number where that is taken.
    fn free(&mut self, wanted: &str) -> String {
        let numbered = (2..).map(|n| format!("{wanted}_{n}"));
        let free = [wanted.to_string()].into_iter().chain(numbered).find(|name| !self.taken.contains(name));
        let free = free.unwrap_or_default(); // there is no end of numbers
        self.taken.insert(free.clone());
        free
    }

    /// Appends a node of one output; returns its name.
    fn node(
        &mut self,
        layer: &str,
        operator: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<Message<'a>>,
    ) -> String {
        let output = self.free(&format!("{layer}.{}", operator.to_lowercase()));
        self.append((operator, &output), inputs, attributes, output.clone());
        output
    }

    fn append(
        &mut self,
        (operator, name): (&str, &str),
        inputs: &[impl AsRef<str>],
        attributes: Vec<Message<'a>>,
        output: String,
    ) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input.as_ref()));
        self.nodes.push(node.text(2, &output).text(3, name).text(4, operator).messages(5, attributes));
    }

    fn initializer(&mut self, name: &str, element: Element, shape: &[usize], bytes: impl Into<Cow<'a, [u8]>>) {
        let dims = shape.iter().fold(Message::default(), |dims, &extent| dims.integer(1, extent as i64));
        self.initializers.push(dims.integer(2, element as i64).text(8, name).bytes(9, bytes));
    }

    fn scalar(&mut self, layer: &str, number: f32) -> String {
        self.numbers(layer, &[], &[number])
    }

    fn numbers(&mut self, layer: &str, shape: &[usize], numbers: &[f32]) -> String {
        let name = self.free(&format!("{layer}.constant"));
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.initializer(&name, Element::F32, shape, bytes);
        name
    }

    fn integers(&mut self, layer: &str, numbers: &[i64]) -> String {
        let name = self.free(&format!("{layer}.constant"));
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.initializer(&name, Element::I64, &[numbers.len()], bytes);
        name
    }
}

fn attribute<'a>(name: &str, kind: i64) -> Message<'a> {
    Message::default().text(1, name).integer(20, kind)
}

fn float<'a>(name: &str, value: f32) -> Message<'a> {
    attribute(name, 1).float(2, value)
}

fn integer<'a>(name: &str, value: i64) -> Message<'a> {
    attribute(name, 2).integer(3, value)
}

fn integers<'a>(name: &str, values: &[usize]) -> Message<'a> {
    values.iter().fold(attribute(name, 7), |list, &value| list.integer(8, value as i64))
}

/// An input or output: a batch of any size, then these extents.
fn value_info<'a>(name: &str, element: Element, extents: &[usize], about: &str) -> Message<'a> {
    let batch = Message::default().text(2, "N");
    let extents = extents.iter().map(|&extent| Message::default().integer(1, extent as i64));
    let shape = Message::default().messages(1, [batch].into_iter().chain(extents));
    let tensor = Message::default().integer(1, element as i64).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor)).text(3, about)
}

#[cfg(test)]
mod tests;
