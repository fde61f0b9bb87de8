//! What a device made of the cases: `convoy selftest` prints it, and a bug report brings it.

use serde::Serialize;

use super::{Mismatch, Wrong};
use crate::backend::{DeviceInfo, Finding};
use crate::ops::case::Case;

/// What a device made of the cases.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// convoy's.
    pub version: String,
    /// The device.
    pub device: DeviceInfo,
    /// What the checks of the device itself found. Kernels keep out of the way of a fault that is known (long loops).
    pub findings: Vec<Finding>,
    /// Of the values and the random cases.
    pub seed: u64,
    /// Cases run.
    pub cases: usize,
    /// Those of them that NVIDIA's libraries computed.
    pub of_libraries: usize,
    /// Cases that went wrong.
    pub failed: usize,
    /// By op.
    pub ops: Vec<OpReport>,
    /// The first failures of each op.
    pub failures: Vec<Failure>,
}

/// What a device made of an op's cases.
#[derive(Clone, Debug, Serialize)]
pub struct OpReport {
    /// Name of the op.
    pub op: String,
    /// Cases run.
    pub cases: usize,
    /// Cases that went wrong.
    pub failed: usize,
    /// Largest error, as a share of its tolerance: beyond 1 where a case is wrong, infinite (`null` in JSON) where an element is finite
    /// that must not be, or the other way round.
    pub worst_error: f64,
    /// The case that had it.
    pub worst_case: String,
    /// Time of all cases, compilation of their pipelines included.
    pub ms: f64,
}

impl OpReport {
    pub(super) fn new(op: &str) -> Self {
        OpReport { op: op.to_string(), cases: 0, failed: 0, worst_error: 0.0, worst_case: String::new(), ms: 0.0 }
    }
}

/// A case that went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Name of the op.
    pub op: String,
    /// Name of the case.
    pub case: String,
    /// The op with its options.
    pub options: String,
    /// Shapes and kinds of values.
    pub inputs: Vec<String>,
    /// What went wrong.
    pub message: String,
    /// The command that runs the case again, before it was made smaller.
    pub again: String,
    /// The first bad element, when the numbers are wrong.
    pub element: Option<Mismatch>,
}

impl Failure {
    pub(super) fn new(case: &Case, wrong: Wrong, again: String) -> Self {
        let message = wrong.to_string();
        let element = match wrong {
            Wrong::Step(_) => None,
            Wrong::Element(mismatch) => Some(*mismatch),
        };
        Failure {
            op: case.op.name().to_string(),
            case: case.name.clone(),
            options: format!("{:?}", case.op),
            inputs: case.inputs.iter().map(|input| format!("{} {:?}", input.ty.shape, input.fill)).collect(),
            message,
            again,
            element,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { op, case, options, inputs, message, again, .. } = self;
        write!(f, "{op} [{case}]: {message}\n    {options} on {}\n    again: {again}", inputs.join(", "))
    }
}
