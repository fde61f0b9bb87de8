// Element-wise arithmetic.
//!include elements

struct Params { count: u32 }
struct Constant { count: u32, value: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> constant: Constant;
@group(0) @binding(2) var<storage, read> a: array<vec4f>;
@group(0) @binding(3) var<storage, read> b: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

// y = a + b
@compute @workgroup_size(LANES)
fn add(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
       @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i < params.count) {
        y[i] = a[i] + b[i];
    }
}

// y = a * b
@compute @workgroup_size(LANES)
fn mul(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
       @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i < params.count) {
        y[i] = a[i] * b[i];
    }
}

// y = a * value
@compute @workgroup_size(LANES)
fn scale(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i < constant.count) {
        y[i] = a[i] * constant.value;
    }
}

// y = value
@compute @workgroup_size(LANES)
fn fill(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i < constant.count) {
        y[i] = vec4f(constant.value);
    }
}
