// Many workgroups in a grid of two dimensions: one dimension holds at most 65,535.

// Invocations of a workgroup.
const LANES: u32 = 256u;

// Number of a workgroup in row-major order.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}

// Number of an invocation.
fn flat_thread(group: vec3u, groups: vec3u, local: u32) -> u32 {
    return flat_group(group, groups) * LANES + local;
}
