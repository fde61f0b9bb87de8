//! What a driver has compiled, kept from run to run: a file for each device and driver, where the interface has such (Vulkan). Most drivers
//! for desktops keep some of their own; others compile anew at each start.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::formats::atomic;

/// A larger file begins anew: what no kernel asks for any more is never taken out.
const MOST_BYTES: u64 = 64 << 20;

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
        let data = read(&path);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("convoy"), data: data.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` gave for this device and driver, as the checksum shows.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(PipelineCache { cache, path, kept: data.map(|data| xxh3_64(&data)) })
    }
}

impl Drop for PipelineCache {
    /// Best effort: without the file the next start takes longer.
    fn drop(&mut self) {
        let Some(data) = self.cache.get_data().filter(|data| !data.is_empty()) else { return };
        let checksum = xxh3_64(&data);
        if self.kept != Some(checksum) {
            let _ = self.path.parent().map(fs::create_dir_all);
            let _ = atomic::write(&self.path, |file| {
                file.write_all(&checksum.to_le_bytes())?;
                file.write_all(&data)
            });
        }
    }
}

/// The data in a file, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    if fs::metadata(path).ok()?.len() > MOST_BYTES {
        return None;
    }
    let mut bytes = fs::read(path).ok()?;
    let checksum = u64::from_le_bytes(*bytes.first_chunk()?);
    bytes.drain(..8);
    (xxh3_64(&bytes) == checksum).then_some(bytes)
}
