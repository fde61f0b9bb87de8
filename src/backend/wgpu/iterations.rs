//! How many iterations an invocation of a kernel runs, all its loops together: some drivers end them silently after 65,535
//! (see `probe`), so that no kernel may come near.
//!
//! Each kernel is run with a line in its loops that counts, for single workgroups at both ends and in the middle of the grid, and on
//! buffers of a few bytes: where a loop ends depends on the kernel's uniforms and place alone, never on what the buffers hold. So
//! shapes of any size can be counted.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use super::adapter::adapters;
use super::dispatch::{Dispatch, Key};
use super::lower::{lower, of_case};
use super::lowering::{Capability, MAX_ITERATIONS, STORAGE_BUFFERS};
use super::pipeline::TEXEL_FORMAT;
use super::shaders::{BindingKind, Kernel};
use super::translate::capabilities;
use crate::backend::Precision;
use crate::graph::Graph;
use crate::graph::plan::plan;
use crate::models::{BuildOptions, Model, OptimizerConfig, train_graph};
use crate::ops::case::{Case, CaseInput};
use crate::ops::{
    AvgPool2d, AvgPool2dBackward, BatchNorm, BiasBackward, Conv2d, Conv2dBackwardWeight, CrossEntropy, Linear,
    LinearBackwardInput, LinearBackwardWeight, MaxPool2d, Op, Reduce, ReduceKind, Softmax, draw,
};

/// Bindings of what [`counting`] adds to a shader, beyond those of any.
const LAUNCH: u32 = 62;
const COUNT: u32 = 63;

/// The shader with its loops counted, run for one workgroup of a larger grid.
fn counting(source: &str) -> String {
    let mut text = format!(
        "struct Launch {{ group: vec3u, groups: vec3u }}
@group(0) @binding({LAUNCH}) var<uniform> launch: Launch;
@group(0) @binding({COUNT}) var<storage, read_write> most_iterations: atomic<u32>;
var<private> iterations: u32;\n"
    );
    let (mut places, mut entry, mut within) = (String::new(), false, false);
    // Told where an invocation ends: an atomic in each iteration would take most of the time.
    let tell = "atomicMax(&most_iterations, iterations);\n";
    for line in source.lines() {
        let mut line = Cow::Borrowed(line);
        for (builtin, value) in [("workgroup_id", "launch.group"), ("num_workgroups", "launch.groups")] {
            let Some((_, name)) = line.split_once(&format!("@builtin({builtin}) ")) else { continue };
            let name = name.split(':').next().unwrap().to_string();
            line =
                line.replace(&format!("@builtin({builtin}) {name}"), &format!("@builtin({builtin}) own_{name}")).into();
            places += &format!("let {name} = {value};\n");
        }
        let code = line.split("//").next().unwrap().trim().to_string();
        if within && code.contains("return;") {
            line = line.replace("return;", &format!("{tell}return;")).into();
        }
        if within && line == "}" {
            text += tell;
            within = false;
        }
        text += &line;
        text.push('\n');
        entry |= code.starts_with("@compute");
        assert!(!code.starts_with("while") && !code.starts_with("loop"), "a loop that is not counted: {code}");
        if code.starts_with("for ") {
            assert!(code.ends_with('{'), "a loop that is not counted: {code}");
            text += "iterations += 1u;\n";
        }
        if entry && code.ends_with('{') {
            // Both bindings are part of every entry point's layout.
            text += &format!("atomicMax(&most_iterations, 0u * launch.groups.x);\n{places}");
            (places, entry, within) = (String::new(), false, true);
        }
    }
    assert!(!within, "an entry point whose last line is not }}");
    text
}

/// Counts on one device; a pipeline for each kernel and constants.
struct Counter {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: BTreeMap<String, wgpu::ComputePipeline>,
}

impl Counter {
    fn open() -> Counter {
        let advice = "no Vulkan adapter; on Debian: apt-get install -y mesa-vulkan-drivers";
        let adapter = adapters(false).into_iter().next().expect(advice);
        let request = adapter.wgpu.request_device(&wgpu::DeviceDescriptor {
            required_features: adapter.wgpu.features() & wgpu::Features::SUBGROUP,
            required_limits: wgpu::Limits {
                max_storage_buffers_per_shader_stage: STORAGE_BUFFERS as u32 + 1,
                ..wgpu::Limits::default()
            },
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request).unwrap();
        Counter { device, queue, pipelines: BTreeMap::new() }
    }

    fn pipeline(&mut self, dispatch: &Dispatch) -> &wgpu::ComputePipeline {
        let Kernel { name, source, entry, .. } = &dispatch.kernel;
        self.pipelines.entry(format!("{name} {:?}", dispatch.overrides)).or_insert_with(|| {
            let source = wgpu::ShaderSource::Wgsl(counting(source).into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
            let module = self.device.create_shader_module(descriptor);
            let constants = &dispatch.overrides;
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
                cache: None,
            })
        })
    }

    fn buffer(&self, usage: wgpu::BufferUsages, words: &[u32]) -> wgpu::Buffer {
        let size = 4 * words.len() as u64;
        let usage = usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    }

    /// The most iterations of an invocation of the dispatch.
    fn count(&mut self, dispatch: &Dispatch) -> u32 {
        let pipeline = self.pipeline(dispatch).clone();
        let count = self.buffer(wgpu::BufferUsages::STORAGE, &[0; 4]);
        let uniform: Vec<u32> = bytemuck::pod_collect_to_vec(&dispatch.uniform);
        let uniform = self.buffer(wgpu::BufferUsages::UNIFORM, if uniform.is_empty() { &[0; 4] } else { &uniform });
        // Kernels that bind one value twice read it; what they write is a buffer of its own.
        let buffers: Vec<_> =
            dispatch.kernel.bindings.iter().map(|_| self.buffer(wgpu::BufferUsages::STORAGE, &[0; 64])).collect();
        let texture = self.device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size: wgpu::Extent3d { width: 4096, height: 1, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: TEXEL_FORMAT,
            usage: wgpu::TextureUsages::STORAGE_BINDING,
            view_formats: &[],
        });
        let texels = texture.create_view(&wgpu::TextureViewDescriptor::default());
        let mut encoder = self.device.create_command_encoder(&Default::default());
        // The last piece of a sum may be shorter, the first window be cut at the picture's edge.
        let places: [fn(u32) -> u32; 3] = [|_| 0, |n| n / 2, |n| n - 1];
        for [x, y, z] in places.map(|place| dispatch.groups.map(place)) {
            let [nx, ny, nz] = dispatch.groups;
            let launch = self.buffer(wgpu::BufferUsages::UNIFORM, &[x, y, z, 0, nx, ny, nz, 0]);
            let bound = dispatch.kernel.bindings.iter().zip(&buffers).map(|(binding, buffer)| {
                let resource = match binding.kind {
                    BindingKind::Uniform { .. } => uniform.as_entire_binding(),
                    BindingKind::Texels | BindingKind::WriteTexels => wgpu::BindingResource::TextureView(&texels),
                    BindingKind::Read | BindingKind::ReadWrite => buffer.as_entire_binding(),
                };
                wgpu::BindGroupEntry { binding: binding.index, resource }
            });
            let own = [(LAUNCH, &launch), (COUNT, &count)]
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
            let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&dispatch.label),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &bound.chain(own).collect::<Vec<_>>(),
            });
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(&count, 0, &staging, 0, 4);
        self.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, |result| result.unwrap());
        self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }).unwrap();
        let bytes = staging.slice(..).get_mapped_range().unwrap();
        u32::from_le_bytes(bytes[..4].try_into().unwrap())
    }
}

/// Shapes whose sums and windows are longer than any in the case list.
fn long_cases() -> Vec<Case> {
    let case = |name: &str, op: Op, shapes: &[&[usize]]| {
        let inputs = shapes.iter().map(|shape| CaseInput::normal(shape.to_vec())).collect();
        Case::new(op, name, inputs, 1)
    };
    let conv = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
    let weight = Conv2dBackwardWeight { conv, kernel: [1, 1] };
    let (kernel, stride, padding) = ([400, 300], [1, 1], [0, 0]);
    let average = AvgPool2d { kernel, stride, padding, ceil_mode: false, count_include_pad: true };
    let cross_entropy = CrossEntropy { label_smoothing: 0.1, weighted: false };
    let labels = CaseInput::labels(300_000, 10);
    vec![
        case("large value", Reduce { kind: ReduceKind::Mean }.into(), &[&[1 << 25]]),
        case("large picture", BiasBackward.into(), &[&[1, 1, 5000, 5000]]),
        case("many rows", BiasBackward.into(), &[&[300_000, 10]]),
        case("many pictures", BiasBackward.into(), &[&[300_000, 1, 10, 10]]),
        case("large picture", BatchNorm { epsilon: 1e-5 }.into(), &[&[1, 1, 4000, 4000], &[1], &[1]]),
        case("many rows", BatchNorm { epsilon: 1e-5 }.into(), &[&[300_000, 10], &[10], &[10]]),
        case("many pictures", BatchNorm { epsilon: 1e-5 }.into(), &[&[300_000, 1, 10, 10], &[1], &[1]]),
        case("many inputs", Linear.into(), &[&[1, 6_000_001], &[2, 6_000_001]]),
        case("many inputs", Linear.into(), &[&[1, 240_000], &[2, 240_000]]),
        case("many outputs", LinearBackwardInput.into(), &[&[1, 300_000], &[300_000, 8]]),
        case("many rows", LinearBackwardWeight.into(), &[&[300_000, 10], &[300_000, 10]]),
        Case::new(cross_entropy, "many rows", vec![CaseInput::normal([300_000, 10]), labels], 1),
        case("many classes", Softmax { log: true }.into(), &[&[1, 8_000_000]]),
        case("large picture", weight.into(), &[&[1, 1, 700, 700], &[1, 1, 700, 700]]),
        case("whole picture", average.clone().into(), &[&[1, 1, 400, 300]]),
        case("whole picture", AvgPool2dBackward { pool: average, input: kernel }.into(), &[&[1, 1, 1, 1]]),
        case("whole picture", MaxPool2d { kernel, stride, padding, ceil_mode: false }.into(), &[&[1, 1, 400, 300]]),
    ]
}

/// AlexNet's training step, and cases short and long, on GPUs and on software, with and without small windows.
#[test]
fn no_invocation_runs_too_many_iterations() {
    let model = Model::find("alexnet").unwrap();
    let optimizer = OptimizerConfig::sgd(0.9, 5e-4);
    let train = |batch| train_graph(&model, &BuildOptions::new(batch, 1000), &optimizer, 0.1).unwrap().graph;
    let graphs = [2, 512].map(train);
    let drawn = draw::cases(1, 2).map(|(_, case, _)| case);
    let long = long_cases();
    let cases: Vec<Case> = Op::all_cases().into_iter().chain(drawn).chain(long.clone()).collect();
    // By pipeline, which is compiled once.
    let mut wanted: BTreeMap<Key, Vec<(String, Dispatch)>> = BTreeMap::new();
    let mut known = HashSet::new();
    // Tiles of all sizes loop over the same terms, with 16-bit floats too: two of them are enough.
    let enough = |capability: &Capability| capability.candidate < 2 && capability.precision == Precision::F32;
    for capability in capabilities().into_iter().filter(enough) {
        let of_case = |case: &Case| {
            let dispatches = of_case(case, capability).unwrap_or_default();
            dispatches.into_iter().map(|dispatch| (case.label(), dispatch)).collect::<Vec<_>>()
        };
        // The smallest windows do not hold one picture's activations.
        let of_graph = |graph: &Graph| lower(capability, &Default::default(), u64::MAX, graph, &plan(graph, &[]));
        let of_graphs = graphs.iter().filter_map(|graph| of_graph(graph).ok()).flat_map(|lowered| lowered.dispatches);
        let of_graphs = of_graphs.map(|dispatch| ("alexnet".to_string(), dispatch));
        let cases = if capability.candidate == 0 { &cases[..] } else { &long };
        for (of, dispatch) in of_graphs.chain(cases.iter().flat_map(of_case)) {
            if known.insert((dispatch.kernel.name.to_string(), dispatch.uniform.clone(), dispatch.groups)) {
                wanted.entry(dispatch.key()).or_default().push((of, dispatch));
            }
        }
    }
    let counts: Mutex<BTreeMap<String, (u32, String)>> = Mutex::default();
    let wanted = Mutex::new(wanted.into_values());
    let count_some = || {
        let mut counter = Counter::open();
        while let Some(dispatches) = { wanted.lock().unwrap().next() } {
            for (of, dispatch) in dispatches {
                let count = counter.count(&dispatch);
                let mut counts = counts.lock().unwrap();
                let most = counts.entry(dispatch.kernel.name.to_string()).or_default();
                if count >= most.0 {
                    *most = (count, format!("{of} {}", dispatch.label));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(count_some);
        }
    });
    let counts = counts.into_inner().unwrap();
    let told = |(kernel, (count, of)): (&String, &(u32, String))| format!("{kernel:32} {count:6} {of}");
    println!("{}", counts.iter().map(told).collect::<Vec<_>>().join("\n"));
    let too_many: Vec<String> =
        counts.iter().filter(|(_, (count, _))| *count > MAX_ITERATIONS as u32).map(told).collect();
    assert!(too_many.is_empty(), "more than {MAX_ITERATIONS} iterations:\n{}", too_many.join("\n"));
    // The count is no constant: these loops run as often as their shapes say.
    assert_eq!(counts["dropout.forward"].0, 40, "rounds of Philox, for each element of a strip");
    assert!(counts["conv2d.tile_8_8_8"].0 > 10_000);
}
