//! The optimizer's step on several small parameters in one: to start such a step takes a GPU longer than to make it.
//! [`crate::graph::fuse`] puts it in the place of the steps.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::{Adam, Array, Forward, Operator, Sgd, UpdateRule};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::TensorType;

/// Steps on up to [`MultiUpdate::MOST`] parameters, alike but for the factors of learning rate and decay. Inputs: each step's own but for the
/// schedule, one step after the other; the schedule. Outputs: each step's, in place.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiUpdate {
    /// One for each parameter.
    pub rules: Vec<UpdateRule>,
}

impl MultiUpdate {
    /// Parameters in one step, at most: Adam's kernel binds four buffers of each, and two besides.
    pub const MOST: usize = 6;

    /// What the steps are of: [inputs without the schedule, outputs].
    pub(crate) fn counts(&self) -> [usize; 2] {
        match self.rules.first() {
            Some(UpdateRule::Adam(_)) => [4, 3],
            _ => [3, 2],
        }
    }

    /// The inputs of step `number`, with the schedule.
    pub(crate) fn inputs<T: Clone>(&self, number: usize, inputs: &[T]) -> Vec<T> {
        let [count, _] = self.counts();
        inputs[number * count..][..count].iter().chain(inputs.last()).cloned().collect()
    }

    /// The steps of a node of this op, each as a node of its own.
    pub(crate) fn steps(&self, node: &Node) -> impl Iterator<Item = Node> {
        let outputs = node.outputs.chunks(self.counts()[1]);
        self.rules.iter().zip(outputs).enumerate().map(|(number, (rule, outputs))| Node {
            op: rule.clone().into(),
            layer: node.layer.clone(),
            inputs: self.inputs(number, &node.inputs),
            outputs: outputs.to_vec(),
        })
    }

    /// The outputs of all steps, for what gives one step's.
    fn of_all(&self, of_one: impl Fn(usize, &dyn Operator) -> Vec<Array>) -> Vec<Array> {
        self.rules.iter().enumerate().flat_map(|(number, rule)| of_one(number, rule.op())).collect()
    }
}

/// Outputs and the inputs that they overwrite: the parameter, and its states behind the gradient.
const fn in_place<const N: usize>(inputs: usize, outputs: usize) -> [(usize, usize); N] {
    let (mut aliases, mut output) = ([(0, 0); N], 0);
    while output < N {
        let (step, place) = (output / outputs, output % outputs);
        aliases[output] = (output, step * inputs + if place == 0 { 0 } else { place + 1 });
        output += 1;
    }
    aliases
}

static SGD_IN_PLACE: [(usize, usize); 2 * MultiUpdate::MOST] = in_place(3, 2);
static ADAM_IN_PLACE: [(usize, usize); 3 * MultiUpdate::MOST] = in_place(4, 3);

impl Operator for MultiUpdate {
    fn name(&self) -> &'static str {
        "multi_update"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let count = self.rules.len();
        if count == 0 || count > MultiUpdate::MOST {
            return Err(format!("expected 1 to {} steps, got {count}", MultiUpdate::MOST));
        }
        if !self.rules.iter().all(|rule| rule.is_like(&self.rules[0])) {
            return Err("expected steps that are alike but for the factors of learning rate and decay".into());
        }
        let expected = count * self.counts()[0] + 1;
        if inputs.len() != expected {
            return Err(format!("expected {expected} inputs for {count} parameters, got {}", inputs.len()));
        }
        let mut outputs = Vec::new();
        for (number, rule) in self.rules.iter().enumerate() {
            outputs.extend(rule.op().infer(&self.inputs(number, inputs))?);
        }
        Ok(outputs)
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        self.of_all(|number, step| step.reference(&self.inputs(number, inputs)))
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        let [_, outputs] = self.counts();
        let all: &[_] = if outputs == 2 { &SGD_IN_PLACE } else { &ADAM_IN_PLACE };
        &all[..self.rules.len() * outputs]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let [_, count] = self.counts();
        self.of_all(|number, step| step.scale(&self.inputs(number, inputs), &outputs[number * count..][..count]))
    }

    fn cases() -> Vec<Case> {
        let steps = || Sgd::cases().into_iter().chain(Adam::cases());
        let sizes: [(&str, &[usize]); 3] =
            [("two", &[1, 37]), ("one", &[1031]), ("as many as there can be", &[4096, 1, 384, 5, 2049, 34_848])];
        let cases = sizes.into_iter().flat_map(|(name, sizes)| steps().map(move |step| (name, sizes, step)));
        cases.filter_map(|(name, sizes, step)| MultiUpdate::case(name, sizes, step)).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let step = if draw.below(2) == 0 { Sgd::random(draw) } else { Adam::random(draw) };
        let count = draw.between(1, MultiUpdate::MOST);
        let sizes: Vec<usize> = (0..count).map(|_| draw.between(1, 300)).collect();
        MultiUpdate::case("random", &sizes, step).expect("the case of an optimizer")
    }
}

impl MultiUpdate {
    /// The case of an optimizer's step, on parameters of these sizes with factors of their own.
    fn case(name: &str, sizes: &[usize], step: Case) -> Option<Case> {
        let rule = UpdateRule::of(&step.op)?;
        let (schedule, own) = step.inputs.split_last()?;
        let (mut rules, mut inputs) = (Vec::new(), Vec::new());
        for (number, &size) in sizes.iter().enumerate() {
            let factor = (1 + number) as f32;
            rules.push(rule.scaled(1.0 / factor, if number == 1 { 0.0 } else { factor }));
            inputs.extend(own.iter().map(|input| CaseInput::f32([size], input.fill.clone())));
        }
        inputs.push(schedule.clone());
        let name = format!("{} {}, {name}", rule.op().name(), step.name);
        Some(Case::new(MultiUpdate { rules }, name, inputs, 1))
    }
}
