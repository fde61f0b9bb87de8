// What texel_product relies on in subgroups. A file of its own because it needs a device that has them.

@group(0) @binding(0) var<storage, read> given: array<u32>;
@group(0) @binding(1) var<storage, read_write> found: array<u32>;

// Of each invocation: the size of its subgroup, its number there, and what it gets of those with the numbers 0 and 3, who send
// their numbers in the workgroup + given[0].
@compute @workgroup_size(64)
fn subgroups(@builtin(local_invocation_index) local: u32, @builtin(subgroup_size) size: u32,
             @builtin(subgroup_invocation_id) lane: u32) {
    let value = local + given[0];
    found[4u * local] = size;
    found[4u * local + 1u] = lane;
    found[4u * local + 2u] = subgroupBroadcast(value, 0u);
    found[4u * local + 3u] = subgroupBroadcast(value, 3u);
}
