// Mixing of pictures [n, channels, height, width] with those of the opposite rows: mixup and CutMix.
//!include grid

struct Params {
    count: u32, // of this piece
    row: u32, // elements of a picture
    height: u32,
    width: u32,
    pictures: u32, // of this piece
    x_first: u32,
    others_first: u32, // of the piece's last opposite row: the opposite rows come from its end
    plan_first: u32,
    out_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> others: array<f32>;
@group(0) @binding(3) var<storage, read> plan: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// In the box of the row's plan [share, top, left, bottom, right] the other row, elsewhere share * x + (1 - share) * other
@compute @workgroup_size(LANES)
fn mix_rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let place = flat_thread(group, groups, local);
    if (place >= params.count) {
        return;
    }
    let n = place / params.row;
    let at = params.plan_first + 5u * n;
    let i = f32(place / params.width % params.height);
    let j = f32(place % params.width);
    let other = others[params.others_first + (params.pictures - 1u - n) * params.row + place % params.row];
    let share = plan[at];
    let in_box = plan[at + 1u] <= i && i < plan[at + 3u] && plan[at + 2u] <= j && j < plan[at + 4u];
    out[params.out_first + place] = select(share * x[params.x_first + place] + (1.0 - share) * other, other, in_box);
}
