// Geometry of a pooling window over a plane of h x w.

override KERNEL_H: u32 = 1u;
override KERNEL_W: u32 = 1u;
override STRIDE_H: u32 = 1u;
override STRIDE_W: u32 = 1u;
override PADDING_H: u32 = 0u;
override PADDING_W: u32 = 0u;

// First and end position under output position `index` along an axis, clipped to the picture.
fn covered(index: u32, kernel: u32, stride: u32, padding: u32, extent: u32) -> vec2u {
    let start = index * stride;
    return vec2u(max(start, padding) - padding, min(start + kernel - padding, extent));
}

// First and end output position whose window holds input position `index` along an axis.
fn covering(index: u32, kernel: u32, stride: u32, padding: u32, outputs: u32) -> vec2u {
    let place = index + padding;
    let first = (max(place + 1u, kernel) - kernel + stride - 1u) / stride;
    return vec2u(first, min(place / stride + 1u, outputs));
}
