//! The parts of NVIDIA's driver interface that are used, each freed when it is dropped.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUevent_flags as EventFlags};

use super::library;
use crate::error::{Error, Result};

/// What went wrong, in the driver's words.
pub(super) fn told(error: DriverError) -> Error {
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::device("the device is out of memory; lower --batch-size"),
        _ => {
            let text = error
                .error_string()
                .map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned());
            Error::device(format!("the device reports: {text} ({:?})", error.0))
        }
    }
}

/// A GPU that the driver has.
#[derive(Clone, Copy)]
pub(super) struct Gpu(sys::CUdevice);

impl Gpu {
    /// All, in the driver's order.
    ///
    /// # Errors
    /// Where there is no driver, or none that works.
    pub fn all() -> Result<Vec<Gpu>> {
        library::driver()?;
        result::init().map_err(told)?;
        let count = result::device::get_count().map_err(told)?;
        (0..count).map(|number| result::device::get(number).map(Gpu).map_err(told)).collect()
    }

    pub fn name(self) -> Result<String> {
        result::device::get_name(self.0).map_err(told)
    }

    pub fn memory_bytes(self) -> Result<u64> {
        // SAFETY: the device is one of the driver's.
        unsafe { result::device::total_mem(self.0) }.map(|bytes| bytes as u64).map_err(told)
    }

    pub fn attribute(self, attribute: Attribute) -> Result<c_int> {
        // SAFETY: the device is one of the driver's.
        unsafe { result::device::get_attribute(self.0, attribute) }.map_err(told)
    }

    /// Major and minor.
    pub fn compute_capability(self) -> Result<[c_int; 2]> {
        let major = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        Ok([major, self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?])
    }
}

/// The newest CUDA that the driver knows, major and minor.
pub(super) fn version() -> Result<[c_int; 2]> {
    let mut version = 0;
    // SAFETY: a place for the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(told)?;
    Ok([version / 1000, version % 1000 / 10])
}

/// A GPU's primary context, kept until the process ends. Whatever belongs to it is used by threads that it was bound to.
pub(super) struct Context {
    raw: sys::CUcontext,
    /// Others whose memory this one was let reach, if the machine can.
    reached: Mutex<BTreeSet<usize>>,
}

// SAFETY: the driver's contexts may be used by any thread, and all of them.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The same each time: making one anew for each device that is opened takes a good part of a second.
    pub fn open(gpu: Gpu) -> Result<Arc<Context>> {
        static OPEN: Mutex<BTreeMap<sys::CUdevice, Arc<Context>>> = Mutex::new(BTreeMap::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let context = match open.entry(gpu.0) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(place) => {
                // SAFETY: the device is one of the driver's.
                let raw = unsafe { result::primary_ctx::retain(gpu.0) }.map_err(told)?;
                place.insert(Arc::new(Context { raw, reached: Mutex::default() })).clone()
            }
        };
        context.bind()?;
        Ok(context)
    }

    /// Has the calling thread use this context from now on.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is alive.
        unsafe { result::ctx::set_current(self.raw) }.map_err(told)
    }

    /// Lets this GPU, which is bound, read another's memory by itself, where there is a way between the two; else copies go through the host's
    /// memory, which the driver sees to.
    fn reach(&self, other: &Context) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.insert(other.raw as usize) {
            // SAFETY: both contexts are alive.
            let _ = unsafe { sys::cuCtxEnablePeerAccess(other.raw, 0) };
        }
    }
}

/// Memory of a GPU.
pub(super) struct Memory {
    context: Arc<Context>,
    pub address: u64,
}

impl Memory {
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Memory> {
        context.bind()?;
        // SAFETY: the context is bound.
        let address = unsafe { result::malloc_sync(bytes.max(1) as usize) }.map_err(told)?;
        Ok(Memory { context: context.clone(), address })
    }
}

impl Drop for Memory {
    /// Waits for what uses it: the driver does.
    fn drop(&mut self) {
        // SAFETY: allocated above, freed once.
        let _ = self.context.bind().map(|()| unsafe { result::free_sync(self.address) });
    }
}

/// Memory of the host that a GPU reads and writes by itself.
pub(super) struct Pinned {
    context: Arc<Context>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        let len = bytes.max(1);
        context.bind()?;
        // SAFETY: the context is bound.
        let at = unsafe { result::malloc_host(len, 0) }.map_err(told)?;
        let at =
            NonNull::new(at.cast::<u8>()).ok_or_else(|| Error::device("the driver gives no memory of the host"))?;
        // SAFETY: so much was allocated; what it held is unknown.
        unsafe { at.write_bytes(0, len) };
        Ok(Pinned { context: context.clone(), at, len })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so much was allocated and written. The device writes it in a step that is waited for before this is called.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated above, freed once; the driver waits for what uses it.
        let _ = self.context.bind().map(|()| unsafe { result::free_host(self.at.as_ptr().cast()) });
    }
}

/// Work that a GPU does in order. It does not wait for the work of other streams.
pub(super) struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the driver's streams may be used by any thread, and all of them.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(context: &Arc<Context>) -> Result<Stream> {
        context.bind()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(told)?;
        Ok(Stream { context: context.clone(), raw })
    }

    /// For NVIDIA's libraries, which put work on it too.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Waits for all of it.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.raw) }.map_err(told)
    }

    /// Has what comes next on this stream wait for an event.
    pub fn after(&self, event: &Event) -> Result<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(self.raw, event.raw, flags) }.map_err(told)
    }

    /// Copies bytes of the host to an address of the device. They stay as they are until it is done.
    pub fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's program has so much memory there.
        unsafe { result::memcpy_htod_async(to, from, self.raw) }.map_err(told)
    }

    /// Copies bytes of the device to the host. They are not looked at until it is done.
    pub fn download(&self, to: &mut [u8], from: u64) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(to, from, self.raw) }.map_err(told)
    }

    /// Copies within the device.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw) }.map_err(told)
    }

    /// Copies from memory that may be another GPU's.
    pub fn fetch(&self, to: u64, from: &Memory, offset: u64, bytes: usize) -> Result<()> {
        let from_address = from.address + offset;
        if Arc::ptr_eq(&from.context, &self.context) {
            return self.copy(to, from_address, bytes);
        }
        self.context.reach(&from.context);
        let [own, other] = [self.context.raw, from.context.raw];
        // SAFETY: as above; both contexts are alive.
        unsafe { result::memcpy_peer_async(own, to, other, from_address, bytes, self.raw) }.map_err(told)
    }

    /// Has all of these bytes be `value`.
    pub fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memset_d8_async(to, value, bytes, self.raw) }.map_err(told)
    }

    /// Runs a kernel. `arguments` are where each argument lies.
    pub fn launch(&self, function: &Function, groups: [u32; 3], arguments: &mut [*mut c_void]) -> Result<()> {
        let ([x, y, z], [of_x, of_y, of_z]) = (groups, function.block);
        // SAFETY: the arguments are those of the kernel's translation, and live until the driver has copied them.
        unsafe { result::launch_kernel(function.raw, (x, y, z), (of_x, of_y, of_z), 0, self.raw, arguments) }
            .map_err(told)
    }

    /// Records what `work` puts on this stream, to be run again and again.
    pub fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Recorded> {
        use sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as MODE;
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(self.raw, MODE) }.map_err(told)?;
        let worked = work();
        // SAFETY: recording has begun, and is ended whatever happened.
        let graph = unsafe { result::stream::end_capture(self.raw) }.map_err(told);
        let instantiate = |graph| {
            // SAFETY: the graph is alive.
            let raw = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.map_err(told)?;
            Ok(Recorded { context: self.context.clone(), raw })
        };
        match graph {
            Ok(graph) => {
                let recorded = worked.and_then(|()| instantiate(graph));
                // SAFETY: what was made of it needs it no longer.
                let _ = unsafe { result::graph::destroy(graph) };
                recorded
            }
            // What went wrong first says why.
            Err(error) => Err(worked.err().unwrap_or(error)),
        }
    }

    pub fn run(&self, recorded: &Recorded) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { result::graph::launch(recorded.raw, self.raw) }.map_err(told)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created above, destroyed once.
        let _ = self.context.bind().map(|()| unsafe { result::stream::destroy(self.raw) });
    }
}

/// Recorded work (a CUDA graph).
pub(super) struct Recorded {
    context: Arc<Context>,
    raw: sys::CUgraphExec,
}

// SAFETY: used by one thread at a time, as it has one owner.
unsafe impl Send for Recorded {}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: created above, destroyed once.
        let _ = self.context.bind().map(|()| unsafe { result::graph::exec_destroy(self.raw) });
    }
}

/// A place in a stream.
pub(super) struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the driver's events may be used by any thread, and all of them.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// One to wait for: the host's thread sleeps meanwhile.
    pub fn new(context: &Arc<Context>) -> Result<Event> {
        context.bind()?;
        // The flags of the two together have no name.
        let flags = EventFlags::CU_EVENT_DISABLE_TIMING as u32 | EventFlags::CU_EVENT_BLOCKING_SYNC as u32;
        Event::with(context, flags)
    }

    /// One whose time is known.
    pub fn timed(context: &Arc<Context>) -> Result<Event> {
        context.bind()?;
        Event::with(context, EventFlags::CU_EVENT_DEFAULT as u32)
    }

    fn with(context: &Arc<Context>, flags: u32) -> Result<Event> {
        let mut raw = null_mut();
        // SAFETY: a place for the event.
        unsafe { sys::cuEventCreate(&mut raw, flags) }.result().map_err(told)?;
        Ok(Event { context: context.clone(), raw })
    }

    /// Takes place when what is on the stream so far is done.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.raw, stream.raw) }.map_err(told)
    }

    /// [`Event::record`] as a part of what is being recorded: it takes place in each run of that.
    pub fn record_within(&self, stream: &Stream) -> Result<()> {
        let flags = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: both are alive.
        unsafe { sys::cuEventRecordWithFlags(self.raw, stream.raw, flags) }.result().map_err(told)
    }

    /// Whether it took place.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the event is alive.
        match unsafe { result::event::query(self.raw) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(told(error)),
        }
    }

    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.raw) }.map_err(told)
    }

    /// Milliseconds from another one to this. Both took place.
    pub fn since(&self, start: &Event) -> Result<f64> {
        // SAFETY: both are alive.
        unsafe { result::event::elapsed(start.raw, self.raw) }.map(f64::from).map_err(told)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created above, destroyed once.
        let _ = self.context.bind().map(|()| unsafe { result::event::destroy(self.raw) });
    }
}

/// A kernel on a device.
pub(super) struct Function {
    context: Arc<Context>,
    module: sys::CUmodule,
    raw: sys::CUfunction,
    /// Threads of a block.
    block: [u32; 3],
}

// SAFETY: the driver's modules may be used by any thread, and all of them.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// The kernel `name` of a module: machine code or assembly that ends with a zero.
    pub fn load(context: &Arc<Context>, code: &[u8], name: &str, block: [u32; 3]) -> Result<Function> {
        context.bind()?;
        let entry = CString::new(name).map_err(|_| Error::device(format!("{name}: a name with a zero")))?;
        // SAFETY: the code is what NVRTC made.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(told)?;
        let mut function = Function { context: context.clone(), module, raw: null_mut(), block };
        // SAFETY: the module is loaded.
        function.raw = unsafe { result::module::get_function(module, entry) }.map_err(told)?;
        Ok(function)
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: loaded above, unloaded once.
        let _ = self.context.bind().map(|()| unsafe { result::module::unload(self.module) });
    }
}
