//! What NVIDIA's libraries compute in place of convoy's own kernels: convolutions by cuDNN, fully connected layers by cuBLASLt. Each is asked
//! for several ways; the autotuner times them with the own kernels, and leaves out what does not agree with these.

use std::sync::Arc;

use super::casts::{Casts, Element, can_turn};
use super::cublaslt::{CublasLt, Matmul, Product};
use super::cudnn::{Convolution, Cudnn, Pass, Plan};
use super::driver::{Context, Stream, version};
use super::kernels::Kernels;
use super::library;
use crate::backend::Precision;
use crate::error::{Error, Result};
use crate::ops::{Conv2d, Op, Product as Biasable};
use crate::tensor::TensorType;

/// Ways of a library in a precision that are candidates.
const WAYS: usize = 3;

/// What a convolution may take beside its tensors, bytes.
const MOST_WORKSPACE: u64 = 1 << 30;

/// What a node computes, in the libraries' terms; operands as numbers of the node's inputs, the output after them.
#[derive(Clone, Debug, PartialEq)]
enum Work {
    /// a, b and c.
    Product(Product, [usize; 3]),
    /// x, w and y.
    Convolution(Convolution, [usize; 3]),
}

impl Work {
    /// None for what is convoy's own.
    fn of(op: &Op, types: &[TensorType]) -> Option<Work> {
        let matrix = |index: usize| types[index].shape.matrix().ok();
        let nchw = |index: usize| types[index].shape.nchw().ok();
        let plain = Product { rows: 0, columns: 0, terms: 0, a_transposed: false, b_transposed: false, epilogue: None };
        let forward = |conv: &Conv2d, epilogue: Option<bool>| {
            Some(Work::Convolution(
                Convolution::of(conv, Pass::Forward, nchw(0)?, nchw(1)?, epilogue)?,
                [0, 1, types.len()],
            ))
        };
        let linear = || {
            let ([rows, terms], [columns, _]) = (matrix(0)?, matrix(1)?);
            Some((Product { rows, columns, terms, b_transposed: true, ..plain }, [0, 1, types.len()]))
        };
        match op {
            Op::Conv2d(conv) => forward(conv, None),
            Op::Linear(_) => linear().map(|(product, operands)| Work::Product(product, operands)),
            Op::Biased(biased) => match &biased.product {
                Biasable::Conv2d(conv) => forward(conv, Some(biased.relu)),
                Biasable::Linear(_) => {
                    let (product, operands) = linear()?;
                    Some(Work::Product(Product { epilogue: Some(biased.relu), ..product }, operands))
                }
            },
            Op::LinearBackwardInput(_) => {
                let ([rows, terms], [_, columns]) = (matrix(0)?, matrix(1)?);
                Some(Work::Product(Product { rows, columns, terms, ..plain }, [0, 1, 2]))
            }
            Op::LinearBackwardWeight(_) => {
                let ([terms, columns], [_, rows]) = (matrix(0)?, matrix(1)?);
                Some(Work::Product(Product { rows, columns, terms, a_transposed: true, ..plain }, [1, 0, 2]))
            }
            // The gradient alone, in place of the output; the optimizer's step is convoy's own.
            Op::LinearUpdate(_) => {
                let ([terms, columns], [_, rows]) = (matrix(0)?, matrix(1)?);
                Some(Work::Product(Product { rows, columns, terms, a_transposed: true, ..plain }, [1, 0, types.len()]))
            }
            Op::Conv2dBackwardInput(backward) => {
                let ([n, ..], [o, i, ..]) = (nchw(0)?, nchw(1)?);
                let [h, w] = backward.input;
                let x = [n, i * backward.conv.groups, h, w];
                let of =
                    Convolution::of(&backward.conv, Pass::BackwardInput, x, [o, i, nchw(1)?[2], nchw(1)?[3]], None)?;
                Some(Work::Convolution(of, [2, 1, 0]))
            }
            Op::Conv2dBackwardWeight(backward) => {
                let (x, [_, o, ..]) = (nchw(0)?, nchw(1)?);
                let [r, s] = backward.kernel;
                let w = [o, x[1] / backward.conv.groups, r, s];
                Some(Work::Convolution(Convolution::of(&backward.conv, Pass::BackwardWeight, x, w, None)?, [0, 2, 1]))
            }
            _ => None,
        }
    }

    fn library(&self) -> &'static str {
        match self {
            Work::Product(..) => "cublaslt",
            Work::Convolution(..) => "cudnn",
        }
    }
}

impl Convolution {
    fn of(conv: &Conv2d, pass: Pass, x: [usize; 4], w: [usize; 4], epilogue: Option<bool>) -> Option<Convolution> {
        let output = |axis: usize| conv.output_extent(axis, x[2 + axis], w[2 + axis]).ok();
        let y = [x[0], w[0], output(0)?, output(1)?];
        let Conv2d { stride, padding, dilation, .. } = *conv;
        Some(Convolution { pass, x, w, y, stride, padding, dilation, epilogue, nhwc: false })
    }

    /// With channels together, as many as tensor cores take of such elements at a time or whole multiples: those of the input, of which there
    /// are three in pictures, get others that are zero. `None` where that cannot be.
    fn together(&self, element: Element) -> Option<Convolution> {
        let mut wide = Convolution { nhwc: true, ..self.clone() };
        if self.x[1] == self.w[1] {
            let room = self.x[1].next_multiple_of(element.channels());
            (wide.x[1], wide.w[1]) = (room, room);
        }
        let whole = wide.tensors().iter().all(|extents| extents[1].is_multiple_of(element.channels()));
        let whole = whole && wide.w[0].is_multiple_of(element.channels());
        (whole && can_turn(&wide.tensors())).then_some(wide)
    }
}

/// One of the ways to ask a library for a node.
#[derive(Clone, Copy)]
struct Attempt {
    precision: Precision,
    /// Whether, and of what, a convolution gets copies of its tensors.
    copied: Option<Element>,
    /// In the library's own order.
    number: usize,
}

/// A node that a library computes; operands as numbers of its inputs, the output after them.
pub(super) struct Call {
    way: Way,
    operands: [usize; 3],
    /// Where there is a bias, its number.
    bias: Option<usize>,
}

enum Way {
    Product(Matmul),
    Convolution(Arc<Plan>),
    /// Of copies that are made before, and the result is copied after.
    Copied {
        plan: Arc<Plan>,
        element: Element,
        /// Of the copies, which may have more channels than what they are copies of.
        convolution: Convolution,
        /// Channels of x and w.
        channels: [usize; 2],
    },
}

impl Call {
    /// Bytes of memory that it wants beside its operands.
    pub fn workspace(&self) -> u64 {
        match &self.way {
            Way::Product(matmul) => matmul.workspace,
            Way::Convolution(plan) => plan.workspace,
            Way::Copied { plan, element, convolution, .. } => {
                let copies = convolution.tensors().into_iter().chain([convolution.bias()]);
                padded(plan.workspace) + copies.map(|extents| copy(*element, extents)).sum::<u64>()
            }
        }
    }
}

/// Bytes of a tensor's copy.
fn copy(element: Element, extents: [usize; 4]) -> u64 {
    padded((element.bytes() * extents.iter().product::<usize>()) as u64)
}

/// So that what comes next is aligned as the libraries like it best.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(256)
}

/// Both libraries, ready.
pub(super) struct Libraries {
    cublaslt: CublasLt,
    cudnn: Cudnn,
    precision: Precision,
    /// Where the precision asks for them.
    casts: Option<Casts>,
    context: Arc<Context>,
}

impl Drop for Libraries {
    /// They are given back where they were made.
    fn drop(&mut self) {
        let _ = self.context.bind();
    }
}

impl Libraries {
    /// Opens them, for a GPU with so much memory, bytes.
    ///
    /// # Errors
    /// Where one is not installed, or does not work, with what to do.
    pub fn open(context: &Arc<Context>, kernels: &Kernels, precision: Precision, memory: u64) -> Result<Libraries> {
        let [major, _] = version()?;
        let (cudnn, of) = library::cudnn(major)?;
        let cublaslt = library::cublaslt(of)?;
        context.bind()?;
        let (cublaslt, cudnn) = (CublasLt::open(cublaslt)?, Cudnn::open(cudnn, (memory / 8).min(MOST_WORKSPACE))?);
        let casts = Element::of(precision).map(|element| Casts::new(kernels, context, element)).transpose()?;
        Ok(Libraries { cublaslt, cudnn, precision, casts, context: context.clone() })
    }

    /// Their versions, as a tuning is for these only.
    pub fn versions(&self) -> String {
        format!("cuBLASLt {}, cuDNN {}", self.cublaslt.version(), self.cudnn.version())
    }

    /// Names of the ways to compute a node, the best first by what the libraries know; none for what they do not compute.
    pub fn candidates(&self, op: &Op, types: &[TensorType]) -> Vec<String> {
        let Some(work) = Work::of(op, types) else { return Vec::new() };
        let there = |attempt: &Attempt| matches!(self.call(&work, *attempt), Ok(Some(_)));
        let mut attempts = self.attempts();
        attempts.reverse(); // cuDNN is asked once for all that come before the last
        attempts.retain(there);
        attempts.into_iter().rev().map(|attempt| self.name(&work, attempt)).collect()
    }

    /// The call for a node, by the way `chosen`, or the first where nothing is known; `None` where the choice is one of convoy's own kernels,
    /// and where the libraries do not compute it.
    pub fn of_node(&self, op: &Op, types: &[TensorType], chosen: Option<&str>) -> Option<Call> {
        let work = Work::of(op, types)?;
        let wanted = |attempt: &Attempt| chosen.is_none_or(|chosen| self.name(&work, *attempt) == chosen);
        self.attempts().into_iter().filter(wanted).find_map(|attempt| self.call(&work, attempt).ok()?)
    }

    /// What is tried, by precision and the library's own order.
    fn attempts(&self) -> Vec<Attempt> {
        let precision = self.precision;
        let attempts = |copied| (0..WAYS).map(move |number| Attempt { precision, copied, number });
        let copied = Element::of(precision);
        match precision {
            // Tensor cores want channels together. The library turns tensors by itself, too, in its own ways.
            Precision::Tf32 => attempts(copied).take(1).chain(attempts(None)).collect(),
            // In TF32 what is not there in bfloat16, or slower for the copying.
            Precision::Bf16 => {
                let other = Attempt { precision: Precision::Tf32, copied: None, number: 0 };
                attempts(copied).chain([other]).collect()
            }
            _ => attempts(None).collect(),
        }
    }

    /// `cudnn`, `cudnn 2`, `cudnn nhwc` of copies in TF32, `cudnn tf32` where that is not what was asked for.
    fn name(&self, work: &Work, Attempt { precision, copied, number }: Attempt) -> String {
        let other = if precision == self.precision { String::new() } else { format!(" {}", precision.name()) };
        let order = if copied == Some(Element::F32) { " nhwc" } else { "" };
        let number = if number == 0 { String::new() } else { format!(" {}", number + 1) };
        format!("{}{other}{order}{number}", work.library())
    }

    fn call(&self, work: &Work, Attempt { precision, copied, number }: Attempt) -> Result<Option<Call>> {
        let (way, epilogue, operands) = match work {
            // It has no channels.
            Work::Product(..) if copied == Some(Element::F32) => return Ok(None),
            Work::Product(product, operands) => {
                let matmul = self.cublaslt.matmul(product, precision, number)?;
                (matmul.map(Way::Product), product.epilogue, *operands)
            }
            Work::Convolution(convolution, operands) => {
                let channels = [convolution.x[1], convolution.w[1]];
                let turned = copied.and_then(|element| convolution.together(element));
                let convolution = match (copied, turned) {
                    (Some(Element::F32), None) => return Ok(None), // a copy of the same
                    (_, turned) => turned.unwrap_or(convolution.clone()),
                };
                let epilogue = convolution.epilogue;
                let way = self.cudnn.plan(&convolution, precision, number)?.map(|plan| match copied {
                    Some(element) => Way::Copied { plan, element, convolution, channels },
                    None => Way::Convolution(plan),
                });
                (way, epilogue, *operands)
            }
        };
        Ok(way.map(|way| Call { way, operands, bias: epilogue.map(|_| 2) }))
    }

    /// Puts a call on a stream. `addresses` are those of the node's inputs, then of its output.
    ///
    /// # Errors
    /// The libraries'.
    pub fn run(&self, call: &Call, addresses: &[u64], workspace: u64, stream: &Stream) -> Result<()> {
        let (operands, bias) = (call.operands.map(|at| addresses[at]), call.bias.map(|at| addresses[at]));
        match &call.way {
            Way::Product(matmul) => self.cublaslt.run(matmul, operands, bias, workspace, stream),
            Way::Convolution(plan) => self.cudnn.run(plan, operands, bias, workspace, stream),
            Way::Copied { plan, element, convolution, channels: [of_x, of_w] } => {
                let Some(casts) = &self.casts else { return Err(Error::device("nothing copies for tensor cores")) };
                let made = match convolution.pass {
                    Pass::Forward => 2,
                    Pass::BackwardInput => 0,
                    Pass::BackwardWeight => 1,
                };
                let mut next = workspace + padded(plan.workspace);
                let mut place = |extents: [usize; 4]| {
                    let at = next;
                    next += copy(*element, extents);
                    at
                };
                let wide = convolution.tensors();
                let copies = wide.map(&mut place);
                let room = |tensor: usize| convolution.nhwc.then_some(wide[tensor][1]);
                let mut tensors = wide;
                (tensors[0][1], tensors[1][1]) = (*of_x, *of_w);
                for tensor in (0..3).filter(|&tensor| tensor != made) {
                    casts.copy(stream, [operands[tensor], copies[tensor]], tensors[tensor], room(tensor))?;
                }
                // One number for each channel: in the same order in any case.
                let rounded = bias.filter(|_| *element == Element::Bf16).map(|bias| (bias, place(convolution.bias())));
                if let Some((bias, copy)) = rounded {
                    casts.copy(stream, [bias, copy], convolution.bias(), None)?;
                }
                let bias = rounded.map(|(_, copy)| copy).or(bias);
                self.cudnn.run(plan, copies, bias, workspace, stream)?;
                casts.copy_back(stream, [copies[made], operands[made]], tensors[made], room(made))
            }
        }
    }
}

/// Whether a kernel is one of the libraries' ways.
pub(super) fn is_library(name: &str) -> bool {
    name.starts_with("cudnn") || name.starts_with("cublaslt")
}
