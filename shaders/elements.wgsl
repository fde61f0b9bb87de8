// For kernels that work element by element, four at a time: `count` elements from the start of the windows.
//!include grid

// Whether all of vec4 number i is below `count`.
fn is_whole(i: u32, count: u32) -> bool {
    return 4u * i + 4u <= count;
}

// The last vec4 of a window with its elements from `count` on left as they were.
fn keep_tail(old: vec4f, fresh: vec4f, i: u32, count: u32) -> vec4f {
    return select(old, fresh, 4u * i + vec4u(0u, 1u, 2u, 3u) < vec4u(count));
}
