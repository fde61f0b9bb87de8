//! The time of each node of a program.

use std::time::Instant;

use super::device::Shared;
use super::program::read_buffer;
use super::step::Step;
use crate::backend::NodeTime;
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorType};

/// Dispatches that are timed by one set of queries, which holds two of each.
const PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// Runs `steps`, and adds up the times of the dispatches of each of `nodes` nodes: by the device's clock, each dispatch in a pass of
/// its own and what is between them not counted; or, where there is none that can be trusted, by the host's, a submit for each node.
///
/// # Errors
/// When the device fails.
pub(super) fn profile(shared: &Shared, steps: &[Step], nodes: usize) -> Result<Vec<NodeTime>> {
    let mut times = vec![NodeTime::default(); nodes];
    // llvmpipe's clock does not wait for the dispatches before.
    if shared.capability.software || !shared.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        for of_node in steps.chunk_by(|a, b| a.node == b.node) {
            times[of_node[0].node] = NodeTime { calls: of_node.len(), ms: host_time(shared, of_node)? };
        }
        return Ok(times);
    }
    let nanoseconds = f64::from(shared.queue.get_timestamp_period());
    for steps in steps.chunks(PER_SET) {
        let stamps = timestamps(shared, steps)?;
        for (step, [begin, end]) in steps.iter().zip(stamps) {
            let time = &mut times[step.node];
            time.calls += 1;
            // Some devices' clocks step back between passes.
            time.ms += end.saturating_sub(begin) as f64 * nanoseconds / 1e6;
        }
    }
    Ok(times)
}

/// Milliseconds from the submit of `steps` to their end.
fn host_time(shared: &Shared, steps: &[Step]) -> Result<f64> {
    let mut encoder = shared.device.create_command_encoder(&Default::default());
    Step::encode_all(steps, &mut encoder);
    let commands = encoder.finish();
    let start = Instant::now();
    shared.queue.submit([commands]);
    shared.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::device(e.to_string()))?;
    shared.check()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The clock before and after each step.
fn timestamps(shared: &Shared, steps: &[Step]) -> Result<Vec<[u64; 2]>> {
    let count = 2 * steps.len() as u32;
    let device = &shared.device;
    let query_set = device.create_query_set(&wgpu::QuerySetDescriptor {
        label: Some("profile"),
        ty: wgpu::QueryType::Timestamp,
        count,
    });
    let resolved = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("profile"),
        size: u64::from(count) * 8,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    for (i, step) in steps.iter().enumerate() {
        let first = 2 * i as u32;
        step.encode_copies(&mut encoder);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        });
        step.encode(&mut pass);
    }
    encoder.resolve_query_set(&query_set, 0..count, &resolved, 0);
    shared.queue.submit([encoder.finish()]);
    shared.check()?;
    let words = read_buffer(shared, &resolved, &TensorType::new([2 * count as usize], DType::U32))?;
    Ok(bytemuck::pod_collect_to_vec(words.bytes()))
}
