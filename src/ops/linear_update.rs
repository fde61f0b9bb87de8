//! The gradient of a fully connected layer's weight and the optimizer's step on the weight in one: a gradient as large as the
//! weight (151 MB in AlexNet's fc6) is neither written nor read. [`crate::graph::fuse`] puts it in the place of the two.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::{Adam, Array, Forward, LinearBackwardWeight, Op, Operator, Sgd};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::TensorType;

/// [`LinearBackwardWeight`], then [`Adam`] or [`Sgd`] with its result for a gradient. Inputs: `x [N, I]`, `dy [N, O]`, and the
/// optimizer's but for the gradient: `w [O, I]`, its states, the schedule. Outputs: the optimizer's, in place.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearUpdate {
    /// The optimizer's step.
    pub rule: UpdateRule,
}

/// An optimizer's step.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is the struct of its name
pub enum UpdateRule {
    Sgd(Sgd),
    Adam(Adam),
}

impl UpdateRule {
    /// The step as an op of its own.
    pub fn op(&self) -> &dyn Operator {
        match self {
            UpdateRule::Sgd(sgd) => sgd,
            UpdateRule::Adam(adam) => adam,
        }
    }

    /// The rule of an op that is one.
    pub fn of(op: &Op) -> Option<UpdateRule> {
        match op {
            Op::Sgd(sgd) => Some(UpdateRule::Sgd(sgd.clone())),
            Op::Adam(adam) => Some(UpdateRule::Adam(adam.clone())),
            _ => None,
        }
    }
}

impl UpdateRule {
    /// The same step with its factor of the learning rate, and its decay, times these.
    pub(crate) fn scaled(&self, rate: f32, decay: f32) -> UpdateRule {
        let mut scaled = self.clone();
        let (lr_scale, weight_decay) = match &mut scaled {
            UpdateRule::Sgd(sgd) => (&mut sgd.lr_scale, &mut sgd.weight_decay),
            UpdateRule::Adam(adam) => (&mut adam.lr_scale, &mut adam.weight_decay),
        };
        *lr_scale *= rate;
        *weight_decay *= decay;
        scaled
    }

    /// Its factor of the learning rate, and its decay.
    pub(crate) fn factors(&self) -> [f32; 2] {
        match self {
            UpdateRule::Sgd(sgd) => [sgd.lr_scale, sgd.weight_decay],
            UpdateRule::Adam(adam) => [adam.lr_scale, adam.weight_decay],
        }
    }

    /// Whether it is the same step but for the factors of learning rate and decay.
    pub(crate) fn is_like(&self, other: &UpdateRule) -> bool {
        self.scaled(0.0, 0.0) == other.scaled(0.0, 0.0)
    }
}

impl From<UpdateRule> for Op {
    fn from(rule: UpdateRule) -> Op {
        match rule {
            UpdateRule::Sgd(sgd) => sgd.into(),
            UpdateRule::Adam(adam) => adam.into(),
        }
    }
}

impl LinearUpdate {
    /// The product in a node of this op, as a node of its own; `None` for another op.
    pub(crate) fn product(node: &Node) -> Option<Node> {
        let is_update = matches!(node.op, Op::LinearUpdate(_));
        let (layer, inputs) = (node.layer.clone(), node.inputs.iter().copied().take(2).collect());
        is_update.then(|| Node { op: LinearBackwardWeight.into(), layer, inputs, outputs: Vec::new() })
    }

    /// The inputs of the optimizer's step: its own, with the gradient in second place.
    pub(crate) fn of_rule<T: Clone>(inputs: &[T], gradient: T) -> Vec<T> {
        let mut own = inputs[2..].to_vec();
        own.insert(1, gradient);
        own
    }
}

impl Operator for LinearUpdate {
    fn name(&self) -> &'static str {
        "linear_update"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        if inputs.len() < 3 {
            return Err(format!("expected x, dy and what the optimizer takes, got {} inputs", inputs.len()));
        }
        let gradient = LinearBackwardWeight.infer(&inputs[..2])?.remove(0);
        self.rule.op().infer(&LinearUpdate::of_rule(inputs, gradient))
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let gradient = LinearBackwardWeight.reference(&inputs[..2]).remove(0);
        self.rule.op().reference(&LinearUpdate::of_rule(inputs, gradient))
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        match self.rule {
            UpdateRule::Sgd(_) => &[(0, 2), (1, 3)],
            UpdateRule::Adam(_) => &[(0, 2), (1, 3), (2, 4)],
        }
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        LinearBackwardWeight.macs(&inputs[..2])
    }

    /// The step's, of a gradient as large as what is added up behind it.
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let gradient = LinearBackwardWeight.reference(&inputs[..2]);
        let size = LinearBackwardWeight.scale(&inputs[..2], &gradient).remove(0);
        self.rule.op().scale(&LinearUpdate::of_rule(inputs, size), outputs)
    }

    fn cases() -> Vec<Case> {
        let sizes = [
            ("odd sizes", [3, 37, 29]),
            ("more than a tile", [33, 1037, 27]),
            ("many outputs", [2, 12, 4099]),
            ("rows of whole vec4s", [3, 332, 11]),
            ("more than a workgroup's inputs", [2, 640, 9]),
        ];
        let rules = || Sgd::cases().into_iter().chain(Adam::cases());
        let cases =
            sizes.into_iter().flat_map(|(name, size)| rules().map(move |rule| LinearUpdate::case(name, size, rule)));
        cases.flatten().collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let [n, mut i, o] = [(); 3].map(|()| if draw.below(2) == 0 { draw.between(1, 9) } else { draw.between(1, 60) });
        if draw.below(2) == 0 {
            i *= 4; // rows of whole vec4s
        }
        let size = [n, i, o];
        let rule = if draw.below(2) == 0 { Sgd::random(draw) } else { Adam::random(draw) };
        let mut case = LinearUpdate::case("random", size, rule).expect("the case of an optimizer");
        // Adam squares their products.
        case.inputs[0].fill = draw.any().up_to(1e4);
        case.inputs[1].fill = draw.finite().up_to(1e4);
        case
    }
}

impl LinearUpdate {
    /// The case of an optimizer's step, on a weight of this size.
    fn case(name: &str, [n, i, o]: [usize; 3], step: Case) -> Option<Case> {
        let rule = UpdateRule::of(&step.op)?;
        let mut inputs = vec![CaseInput::normal([n, i]), CaseInput::normal([n, o])];
        let last = step.inputs.len() - 1;
        for (at, input) in step.inputs.into_iter().enumerate().filter(|&(at, _)| at != 1) {
            inputs.push(if at == last { input } else { CaseInput::f32([o, i], input.fill) });
        }
        let name = if step.name == name { step.name } else { format!("{}, {name}", step.name) };
        Some(Case::new(LinearUpdate { rule }, name, inputs, n))
    }
}
