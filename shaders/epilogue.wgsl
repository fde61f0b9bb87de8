// What becomes of a product's sum before it is stored: the bias of its channel is added, then ReLU.

override EPILOGUE: u32 = 0u; // 0 nothing, 1 a bias, 2 a bias and ReLU

@group(0) @binding(9) var<storage, read> bias: array<f32>;

// `channels`: that of element (0, 0) of group 0, then how many further on that of the next group, row and column is.
fn finished(sum: f32, channels: vec4u, group: u32, row: u32, column: u32) -> f32 {
    if (EPILOGUE == 0u) {
        return sum;
    }
    let value = sum + bias[channels.x + group * channels.y + row * channels.z + column * channels.w];
    return select(value, 0.0, EPILOGUE == 2u && value <= 0.0);
}
