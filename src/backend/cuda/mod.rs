//! NVIDIA's own interface. So far the kernels: those of `shaders/`, translated to CUDA C++.

#[cfg(test)]
mod translate;
