// An average that follows what is measured, in place.
//!include elements

struct Params {
    count: u32,
    old_weight: f32,
    new_weight: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> measured: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> average: array<vec4f>;

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i < params.count) {
        average[i] = params.old_weight * average[i] + params.new_weight * measured[i];
    }
}
