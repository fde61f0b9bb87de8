//! Checks of the device itself, before any kernel: `shaders/probe.wgsl` computes what is known beforehand.

use super::device::Shared;
use super::lowering::MAX_ITERATIONS;
use super::program::read_buffer;
use super::shaders::{Kernel, probe, probe_subgroup};
use crate::backend::Finding;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, TensorType};

/// Iterations of a loop that is longer than any kernel's: Mesa 22.3's llvmpipe stops at 65,535 and says nothing.
const LONG_LOOP: u32 = 200_000;

/// All checks, in the order of the list that users see.
pub(super) fn findings(shared: &Shared) -> Result<Vec<Finding>> {
    Ok(vec![
        loops(shared)?,
        exact("workgroup memory", &run(shared, &probe::WORKGROUP_MEMORY, &[77], 4096)?, |i| i as u32 + 77),
        barriers(shared)?,
        subgroups(shared)?.0,
        integers(shared)?,
        floats(shared)?,
        edges(shared)?,
        offsets(shared)?,
    ])
}

fn loops(shared: &Shared) -> Result<Finding> {
    let short = run(shared, &probe::LOOPS, &[1000, 1], 1)?[0];
    let count = run(shared, &probe::LOOPS, &[LONG_LOOP, 0], 1)?[0];
    let avoided = short == 1500 && (MAX_ITERATIONS as u32..LONG_LOOP).contains(&count);
    let found = match (short, count) {
        (1500, LONG_LOOP) => format!("loops: {LONG_LOOP} iterations run to their end"),
        (1500, _) if avoided => {
            format!("a loop of {LONG_LOOP} iterations ends after {count}, silently; convoy's kernels keep to fewer")
        }
        (1500, _) => {
            format!("a loop of {LONG_LOOP} iterations ends after {count}, silently; convoy's may have {MAX_ITERATIONS}")
        }
        _ => format!("a loop of 1000 iterations gives {short}, expected 1500"),
    };
    Ok(Finding { probe: "loops", right: (short, count) == (1500, LONG_LOOP), avoided, found })
}

fn barriers(shared: &Shared) -> Result<Finding> {
    let found = run(shared, &probe::BARRIERS, &[5], 256)?;
    let mut values: Vec<u32> = (0..256).map(|local| local + 5).collect();
    for _ in 0..100 {
        let sum = values.iter().fold(0_u32, |sum, &value| sum.wrapping_add(value));
        let next = |value: u32| sum.wrapping_add(value.wrapping_mul(2_654_435_761)) ^ (value >> 15);
        values.iter_mut().for_each(|value| *value = next(*value));
    }
    Ok(exact("barriers", &found, |i| values[i]))
}

/// Whether subgroups are what they say, and whether their invocations have the order of the workgroup's, which WGSL does not
/// promise and products of texels need.
pub(super) fn subgroups(shared: &Shared) -> Result<(Finding, bool)> {
    let finding = |right, found| Finding { probe: "subgroups", right, avoided: false, found };
    if !shared.device.features().contains(wgpu::Features::SUBGROUP) {
        return Ok((finding(true, "subgroups: none".to_string()), false));
    }
    const FIRST: u32 = 9;
    let found = run(shared, &probe_subgroup::SUBGROUPS, &[FIRST], 4 * 64)?;
    let (invocations, _) = found.as_chunks::<4>();
    let size = invocations[0][0];
    let lane_of = |value: u32| invocations.get(value.wrapping_sub(FIRST) as usize).map(|of| of[1]);
    let wrong = invocations.iter().position(|&[of, lane, first, fourth]| {
        let sender = |value: u32, lane: u32| {
            // Of the same subgroup: who sends got the same.
            lane_of(value) == Some(lane) && invocations[(value - FIRST) as usize][2..] == [first, fourth]
        };
        of != size || lane >= size || !sender(first, 0) || !sender(fourth, 3)
    });
    if let Some(i) = wrong {
        let text = format!("subgroups: invocation {i} has size, number and broadcasts {:?}", invocations[i]);
        return Ok((finding(false, text), false));
    }
    let in_order = |(i, of): (usize, &[u32; 4])| of[1] == i as u32 % size && of[2] == i as u32 / size * size + FIRST;
    let in_order = invocations.iter().enumerate().all(in_order);
    let order = if in_order { "in order" } else { "in an order of their own" };
    Ok((finding(true, format!("subgroups: of {size}, {order}, broadcasts arrive")), in_order))
}

fn integers(shared: &Shared) -> Result<Finding> {
    let sets = [(4_000_000_007_u32, 5_u32, -17_i32, 5_i32), (0x8100_0000, 31, 7, -3), (3, 30, i32::MIN, -1)];
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (a, b, i, j) in sets {
        found.extend(run(shared, &probe::INTEGERS, &[a, b, i as u32, j as u32], 16)?);
        expected.extend([
            a.wrapping_mul(b),
            a.wrapping_add(b),
            b.wrapping_sub(a),
            a / b,
            a % b,
            a >> b,
            a << b,
            i.wrapping_div(j) as u32,
            i.wrapping_rem(j) as u32,
            (i >> b) as u32,
            i.max(j).wrapping_sub(i.min(j)) as u32,
            a.abs_diff(b),
            a as f32 as u32,
            i as f32 as i32 as u32,
            a.count_ones(),
            (i as f32).to_bits(),
        ]);
    }
    Ok(exact("integers", &found, |i| expected[i]))
}

/// Within WGSL's own bounds (section "Floating point accuracy"): sums and products are rounded right, the rest is near.
fn floats(shared: &Shared) -> Result<Finding> {
    // Units in the last place.
    let allowed = [0, 0, 0, 3, 5, 0, 0, 0, 0, 11, 8];
    for (x, y, z) in [(3.7_f32, 0.3_f32, f32::INFINITY), (0.3, 3.7, -2.5)] {
        let found = run(shared, &probe::FLOATS, &[x, y, z].map(f32::to_bits), allowed.len())?;
        let difference = (x - y).abs();
        let [exp, ln] = [f64::exp(y.into()) as f32, f64::ln(x.into()) as f32];
        let expected = [x + y, x * y, x - y, x / y, x.sqrt(), difference, (-x / y).floor(), difference, x * z, exp, ln];
        if let Some(i) = (0..allowed.len()).find(|&i| found[i].abs_diff(expected[i].to_bits()) > allowed[i]) {
            let found = format!("float operation {i} gives {}, expected {}", f32::from_bits(found[i]), expected[i]);
            return Ok(Finding { probe: "floats", right: false, avoided: false, found });
        }
    }
    Ok(Finding { probe: "floats", right: true, avoided: false, found: "floats: as accurate as WGSL asks".to_string() })
}

/// How the device treats what WGSL leaves to it: a subnormal number may be flushed, a zero has no sign to speak of, infinities and
/// NaN may become anything. No kernel relies on any way (`shaders/nan.wgsl`); a fault is what WGSL leaves out.
fn edges(shared: &Shared) -> Result<Finding> {
    let tiny = f32::from_bits(6);
    let given = [tiny, 0.0, f32::INFINITY, f32::NAN, 2.0].map(f32::to_bits);
    let found = run(shared, &probe::EDGES, &given, 4)?;
    let subnormals = match found[0] {
        3 => "kept",
        0 => "flushed to zero",
        _ => "wrong",
    };
    let right = subnormals != "wrong" && f32::from_bits(found[1]) == 0.0;
    let [negated, product, max] = [1, 2, 3].map(|i| f32::from_bits(found[i]));
    let text = format!(
        "float edges: subnormals are {subnormals}, -(0) is {negated:?}, infinity * 0 is {product}, max(NaN, 1) is {max}"
    );
    Ok(Finding { probe: "float edges", right, avoided: false, found: text })
}

/// Windows that begin at the smallest offset that the device allows, in both buffers.
fn offsets(shared: &Shared) -> Result<Finding> {
    let words = shared.device.limits().min_storage_buffer_offset_alignment as usize / 4;
    let data: Vec<u32> = (0..4 * words as u32).map(|i| i * 3 + 1).collect();
    let found = run_windows(shared, &probe::COPY, &data, 4 * words, [words, 2 * words], words + 4)?;
    // Outside of its window nothing is written.
    let expected = |i: usize| if (2 * words..3 * words + 4).contains(&i) { data[i - words] } else { 0 };
    Ok(exact("buffer offsets", &found, expected))
}

/// All numbers right, or the first that is not.
fn exact(probe: &'static str, found: &[u32], expected: impl Fn(usize) -> u32) -> Finding {
    let wrong = (0..found.len()).find(|&i| found[i] != expected(i));
    let text = match wrong {
        None => format!("{probe}: as they should be"),
        Some(i) => format!("{probe}: number {i} is {}, expected {}", found[i], expected(i)),
    };
    Finding { probe, right: wrong.is_none(), avoided: false, found: text }
}

fn run(shared: &Shared, kernel: &Kernel, given: &[u32], outputs: usize) -> Result<Vec<u32>> {
    run_windows(shared, kernel, given, outputs, [0, 0], outputs.max(given.len()))
}

/// Runs one workgroup for each 64 of `words`, the length of both windows, which begin at these words of `given` and of `outputs` zeros.
fn run_windows(
    shared: &Shared,
    kernel: &Kernel,
    given: &[u32],
    outputs: usize,
    first: [usize; 2],
    words: usize,
) -> Result<Vec<u32>> {
    let ty = TensorType::new([outputs], DType::U32);
    let input = shared.buffer("given", 4 * given.len() as u64)?;
    let output = shared.buffer("found", 4 * outputs as u64)?;
    shared.write(&input, bytemuck::cast_slice(given));
    shared.write(&output, Tensor::zeros(&ty).map_err(Error::device)?.bytes());
    let device = &shared.device;
    let source = shared.pipelines().source(kernel);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(&kernel.name), source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&kernel.name),
        layout: None,
        module: &module,
        entry_point: Some(kernel.entry),
        compilation_options: Default::default(),
        cache: None,
    });
    let window = |buffer, first: usize, len: usize| {
        let size = std::num::NonZeroU64::new(4 * words.min(len - first) as u64);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 4 * first as u64, size })
    };
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(&kernel.name),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: window(&input, first[0], given.len()) },
            wgpu::BindGroupEntry { binding: 1, resource: window(&output, first[1], outputs) },
        ],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        // The checks that share data run in one workgroup; the copy in as many as it takes.
        let groups = if kernel.entry == "copy" { words.div_ceil(kernel.invocations()) as u32 } else { 1 };
        pass.dispatch_workgroups(groups, 1, 1);
    }
    shared.queue.submit([encoder.finish()]);
    shared.check()?;
    let found = read_buffer(shared, &output, &ty)?;
    Ok(bytemuck::pod_collect_to_vec(found.bytes()))
}
