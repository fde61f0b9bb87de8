// Reductions over a workgroup, always in the same order. Every invocation calls them and gets the result.
//!include grid

// Whether an invocation writes the workgroup's result.
fn leads(local: u32) -> bool {
    return local == 0u;
}

var<workgroup> lanes: array<f32, LANES>;

fn workgroup_sum(local: u32, value: f32) -> f32 {
    lanes[local] = value;
    workgroupBarrier();
    for (var reach = 128u; reach > 0u; reach >>= 1u) {
        if (local < reach) {
            lanes[local] += lanes[local + reach];
        }
        workgroupBarrier();
    }
    let sum = lanes[0];
    workgroupBarrier(); // before `lanes` is written again
    return sum;
}

fn workgroup_max(local: u32, value: f32) -> f32 {
    lanes[local] = value;
    workgroupBarrier();
    for (var reach = 128u; reach > 0u; reach >>= 1u) {
        if (local < reach) {
            lanes[local] = max(lanes[local], lanes[local + reach]);
        }
        workgroupBarrier();
    }
    let maximum = lanes[0];
    workgroupBarrier();
    return maximum;
}
