//! cuBLASLt, NVIDIA's matrix products: those of fully connected layers, with bias and ReLU in them.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use libloading::Library;

use super::driver::Stream;
use super::library::functions;
use crate::backend::Precision;
use crate::error::{Error, Result};

type Handle = *mut c_void;
type Descriptor = *mut c_void;
type Layout = *mut c_void;
type Preference = *mut c_void;

functions! {
    Functions;
    cublasLtGetVersion() -> usize;
    cublasLtCreate(*mut Handle) -> c_int;
    cublasLtDestroy(Handle) -> c_int;
    cublasLtMatmulDescCreate(*mut Descriptor, c_int, c_int) -> c_int;
    cublasLtMatmulDescDestroy(Descriptor) -> c_int;
    cublasLtMatmulDescSetAttribute(Descriptor, c_int, *const c_void, usize) -> c_int;
    cublasLtMatrixLayoutCreate(*mut Layout, c_int, u64, u64, i64) -> c_int;
    cublasLtMatrixLayoutDestroy(Layout) -> c_int;
    cublasLtMatmulPreferenceCreate(*mut Preference) -> c_int;
    cublasLtMatmulPreferenceDestroy(Preference) -> c_int;
    cublasLtMatmulPreferenceSetAttribute(Preference, c_int, *const c_void, usize) -> c_int;
    cublasLtMatmulAlgoGetHeuristic(Handle, Descriptor, Layout, Layout, Layout, Layout, Preference, c_int, *mut Found, *mut c_int) -> c_int;
    cublasLtMatmul(
        Handle, Descriptor, *const c_void, u64, Layout, u64, Layout, *const c_void, u64, Layout, u64, Layout,
        *const Algorithm, u64, usize, *mut c_void
    ) -> c_int;
}

/// cublasLtMatmulAlgo_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Algorithm([u64; 8]);

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

// cublasComputeType_t: in f32, or with the inputs of products rounded on the way to tensor cores.
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_16BF: c_int = 75;
const COMPUTE_32F_FAST_TF32: c_int = 77;
/// cudaDataType_t CUDA_R_32F.
const R_32F: c_int = 0;
// cublasLtMatmulDescAttributes_t.
const TRANSA: c_int = 3;
const TRANSB: c_int = 4;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
// cublasLtEpilogue_t.
const EPILOGUE_BIAS: c_int = 4;
const EPILOGUE_RELU_BIAS: c_int = 6;
/// cublasLtMatmulPreferenceAttributes_t.
const MAX_WORKSPACE_BYTES: c_int = 1;

/// What a product may take beside its matrices, bytes: what NVIDIA recommends for Hopper.
const MOST_WORKSPACE: u64 = 32 << 20;

/// The library, ready.
pub(super) struct CublasLt {
    functions: Functions,
    handle: Handle,
}

// SAFETY: NVIDIA's documentation lets any number of threads use a handle.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// `c [rows, columns] = a [rows, terms] * b [terms, columns]`, all row-major in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Product {
    pub rows: usize,
    pub columns: usize,
    pub terms: usize,
    /// Whether a lies as [terms, rows].
    pub a_transposed: bool,
    /// Whether b lies as [columns, terms].
    pub b_transposed: bool,
    /// Whether a bias of each column is added, and whether ReLU follows.
    pub epilogue: Option<bool>,
}

/// A product, ready to run.
pub(super) struct Matmul {
    descriptor: Made<Descriptor>,
    layouts: [Made<Layout>; 3],
    algorithm: Algorithm,
    pub workspace: u64,
}

// SAFETY: used by one thread at a time, as it has one owner.
unsafe impl Send for Matmul {}

/// A thing of the library's that is given back when it is dropped.
struct Made<T: Copy> {
    raw: T,
    destroy: unsafe extern "C" fn(T) -> c_int,
}

impl<T: Copy> Drop for Made<T> {
    fn drop(&mut self) {
        // SAFETY: it was made, and nobody uses it any more.
        unsafe { (self.destroy)(self.raw) };
    }
}

impl CublasLt {
    /// The library for the context that is bound.
    pub fn open(library: &'static Library) -> Result<CublasLt> {
        let functions =
            Functions::of(library).map_err(|e| Error::device(format!("NVIDIA's cuBLASLt is too old: {e}")))?;
        let mut handle = null_mut();
        // SAFETY: a place for the handle.
        check(unsafe { (functions.cublasLtCreate)(&mut handle) })?;
        Ok(CublasLt { functions, handle })
    }

    /// Such as 13.1.0.
    pub fn version(&self) -> String {
        // SAFETY: it asks for nothing.
        let version = unsafe { (self.functions.cublasLtGetVersion)() };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// The way number `way` (0 is what the library thinks best) to make a product; `None` where there are fewer.
    pub fn matmul(&self, product: &Product, precision: Precision, way: usize) -> Result<Option<Matmul>> {
        let Functions { cublasLtMatmulDescSetAttribute: set, .. } = self.functions;
        let compute = match precision {
            Precision::F32 | Precision::F16 { .. } => COMPUTE_32F,
            Precision::Tf32 => COMPUTE_32F_FAST_TF32,
            Precision::Bf16 => COMPUTE_32F_FAST_16BF,
        };
        let f = &self.functions;
        let mut raw = null_mut();
        // SAFETY: a place for what is made, here and below.
        check(unsafe { (f.cublasLtMatmulDescCreate)(&mut raw, compute, R_32F) })?;
        let descriptor = Made { raw, destroy: f.cublasLtMatmulDescDestroy };
        let set_number = |attribute: c_int, value: c_int| {
            // SAFETY: the attribute is a number of so many bytes.
            check(unsafe { set(raw, attribute, (&raw const value).cast(), size_of::<c_int>()) })
        };
        // The library's matrices are column-major: ours are their transposes, c^T = b^T * a^T.
        set_number(TRANSA, product.b_transposed.into())?;
        set_number(TRANSB, product.a_transposed.into())?;
        if let Some(relu) = product.epilogue {
            set_number(EPILOGUE, if relu { EPILOGUE_RELU_BIAS } else { EPILOGUE_BIAS })?;
        }
        let Product { rows, columns, terms, a_transposed, b_transposed, .. } = *product;
        // Of what lies as [outer, inner] row by row.
        let layout = |[outer, inner]: [usize; 2]| -> Result<Made<Layout>> {
            let mut raw = null_mut();
            // SAFETY: as above.
            check(unsafe {
                (f.cublasLtMatrixLayoutCreate)(&mut raw, R_32F, inner as u64, outer as u64, inner as i64)
            })?;
            Ok(Made { raw, destroy: f.cublasLtMatrixLayoutDestroy })
        };
        let layouts = [
            layout(if b_transposed { [columns, terms] } else { [terms, columns] })?,
            layout(if a_transposed { [terms, rows] } else { [rows, terms] })?,
            layout([rows, columns])?,
        ];
        let mut preference = null_mut();
        // SAFETY: as above.
        check(unsafe { (f.cublasLtMatmulPreferenceCreate)(&mut preference) })?;
        let preference = Made { raw: preference, destroy: f.cublasLtMatmulPreferenceDestroy };
        let [b, a, c] = layouts.each_ref().map(|layout| layout.raw);
        // Always as many: lists of other lengths need not begin alike.
        let (mut found, mut count) = ([Found::default(); 8], 0);
        // SAFETY: all are alive, and there is room for as many results as are asked for.
        let code = unsafe {
            let most = MOST_WORKSPACE;
            let set = f.cublasLtMatmulPreferenceSetAttribute;
            check(set(preference.raw, MAX_WORKSPACE_BYTES, (&raw const most).cast(), size_of::<u64>()))?;
            let wanted = found.len() as c_int;
            (f.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                raw,
                b,
                a,
                c,
                c,
                preference.raw,
                wanted,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        if code == NOT_SUPPORTED {
            return Ok(None);
        }
        check(code)?;
        let Some(Found { algorithm, workspace, state: 0, .. }) = found[..count.max(0) as usize].get(way).copied()
        else {
            return Ok(None);
        };
        Ok(Some(Matmul { descriptor, layouts, algorithm, workspace: workspace as u64 }))
    }

    /// Puts a product on a stream: addresses of a, b and c, of the bias where there is one, and of as much memory as it wants.
    pub fn run(
        &self,
        matmul: &Matmul,
        [a, b, c]: [u64; 3],
        bias: Option<u64>,
        workspace: u64,
        stream: &Stream,
    ) -> Result<()> {
        if let Some(bias) = bias {
            let (set, at) = (self.functions.cublasLtMatmulDescSetAttribute, (&raw const bias).cast());
            // SAFETY: the attribute is an address.
            check(unsafe { set(matmul.descriptor.raw, BIAS_POINTER, at, size_of::<u64>()) })?;
        }
        let (one, zero) = (1.0_f32, 0.0_f32);
        let [of_b, of_a, of_c] = matmul.layouts.each_ref().map(|layout| layout.raw);
        // SAFETY: the caller's program has the matrices there; the factors are read before the call returns.
        check(unsafe {
            (self.functions.cublasLtMatmul)(
                self.handle,
                matmul.descriptor.raw,
                (&raw const one).cast(),
                b,
                of_b,
                a,
                of_a,
                (&raw const zero).cast(),
                c,
                of_c,
                c,
                of_c,
                &matmul.algorithm,
                workspace,
                matmul.workspace as usize,
                stream.raw().cast(),
            )
        })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created above, destroyed once.
        unsafe { (self.functions.cublasLtDestroy)(self.handle) };
    }
}

/// CUBLAS_STATUS_NOT_SUPPORTED.
const NOT_SUPPORTED: c_int = 15;

fn check(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        other => Err(Error::device(format!("NVIDIA's cuBLASLt fails with status {other}"))),
    }
}
