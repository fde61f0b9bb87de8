// For kernels that work element by element, four at a time: `count` elements from the start of the windows. The last vec4 is
// read and written whole: every buffer ends with a whole one, and what lies beyond a value's last element means nothing.
//!include grid
