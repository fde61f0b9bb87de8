//! What a driver has compiled, kept from run to run: a file for each device and driver, where the interface has such (Vulkan). Most drivers
//! for desktops keep some of their own; others compile anew at each start.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::backend::kept;

/// Compiled pipelines; what is new among them is written when it is dropped.
#[derive(Debug)]
pub(super) struct PipelineCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    /// Checksum of what the file holds.
    kept: Option<u64>,
}

impl PipelineCache {
    /// What `folder` has for this device, or nothing yet; `None` where the interface keeps nothing.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<PipelineCache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let driver = xxh3_64(format!("{} {} {}", info.name, info.driver, info.driver_info).as_bytes());
        let path = folder.join(format!("{}-{driver:016x}.bin", wgpu::util::pipeline_cache_key(info)?));
        let data = kept::read(&path);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("convoy"), data: data.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` gave for this device and driver, as the checksum shows.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(PipelineCache { cache, path, kept: data.map(|data| xxh3_64(&data)) })
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        let Some(data) = self.cache.get_data().filter(|data| !data.is_empty()) else { return };
        if self.kept != Some(xxh3_64(&data)) {
            kept::write(&self.path, &data);
        }
    }
}
