//! safetensors files: named tensors and a map of strings.
//!
//! The header is written here, since the `safetensors` crate keeps metadata in a `HashMap`, whose order changes from run to run: the same
//! content gives the same bytes. Reading is by the crate's own rules.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use ::safetensors::{Dtype, tensor::Metadata};
use serde_json::{Value, json};

use super::atomic;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, TensorType};

/// The format's own limit for a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Writes a file, whole or not at all. The bytes depend on the content only.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let types = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.ty())).collect();
    write(path, &types, metadata, |name| Ok(Cow::Borrowed(&tensors[name])))
}

/// The same of tensors of `types` that are asked for one after the other, by name: they need not be in memory together.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, and what `tensor` says, which leaves a file that was there as it was.
pub fn save_each(
    path: &Path,
    types: &BTreeMap<String, TensorType>,
    metadata: &BTreeMap<String, String>,
    mut tensor: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    write(path, types, metadata, |name| tensor(name).map(Cow::Owned))
}

fn write<'a>(
    path: &Path,
    types: &BTreeMap<String, TensorType>,
    metadata: &BTreeMap<String, String>,
    mut tensor: impl FnMut(&str) -> Result<Cow<'a, Tensor>>,
) -> Result<()> {
    // Wide elements first, so that each tensor is aligned to its element; then by name.
    let mut ordered: Vec<(&String, &TensorType)> = types.iter().collect();
    ordered.sort_by_key(|(_, ty)| std::cmp::Reverse(ty.dtype.size()));
    let mut header: BTreeMap<&str, Value> = BTreeMap::new();
    if !metadata.is_empty() {
        header.insert("__metadata__", json!(metadata));
    }
    let mut offset = 0;
    for (name, ty) in &ordered {
        let end = offset + ty.bytes();
        let (dtype, shape) = (dtype_name(ty.dtype), &ty.shape[..]);
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).expect("strings and numbers always become JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    // What is no failure to write.
    let mut failure = None;
    let mut contents = |file: &mut BufWriter<&File>| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (name, ty) in &ordered {
            match tensor(name) {
                Ok(tensor) => {
                    debug_assert_eq!(tensor.ty(), **ty, "{name}");
                    file.write_all(tensor.bytes())?;
                }
                Err(error) => {
                    failure = Some(error);
                    return Err(ErrorKind::Other.into());
                }
            }
        }
        Ok(())
    };
    let written = atomic::write(path, &mut contents);
    failure.map_or(written, Err)
}

/// Reads a file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Input`] when it is no safetensors file, is cut short, or holds element types other than
/// F32, U32 and U8.
pub fn load(path: &Path) -> Result<Contents> {
    read(path, |dtype, shape, bytes| {
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::U32 => DType::U32,
            Dtype::U8 => DType::U8,
            other => return Err(format!("elements of type {other:?}: expected F32, U32 or U8")),
        };
        Tensor::from_bytes(&TensorType::new(shape, dtype), bytes).map(Some)
    })
}

/// Reads what a file of any program holds of floating-point numbers: as f32, those of 16 or 64 bits rounded.
///
/// # Errors
/// As [`load`], but other element types are passed over.
pub fn load_floats(path: &Path) -> Result<Contents> {
    read(path, |dtype, shape, bytes| {
        let values: Vec<f32> = match dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|&[a, b]| f32::from_le_bytes([0, 0, a, b])).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| half(u16::from_le_bytes(b))).collect(),
            _ => return Ok(None),
        };
        Tensor::f32(shape, values).map(Some)
    })
}

/// A 16-bit float (IEEE 754 binary16) of these bits.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2.0_f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// The metadata of a file.
///
/// # Errors
/// As [`load`].
pub fn load_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    Ok(read(path, |_, _, _| Ok(None))?.metadata)
}

/// Reads a file; `convert` makes a tensor of an element type, shape and bytes, or passes it over.
fn read(path: &Path, convert: impl Fn(Dtype, Vec<usize>, &[u8]) -> Result<Option<Tensor>, String>) -> Result<Contents> {
    let wrong = |message: &str| Error::input(format!("{}: {message}", path.display()));
    let io = |e: std::io::Error| match e.kind() {
        ErrorKind::UnexpectedEof => wrong("the file is cut short: it ends before its header says; copy it again"),
        _ => Error::io("cannot read the file", path)(e),
    };
    // Looked at before it is opened: that of a pipe would wait for somebody to write.
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(wrong("this is not a file; give a .safetensors file"));
    }
    let file = File::open(path).map_err(io)?;
    let foreign = |why: &str| wrong(&format!("this is not a safetensors file ({why})"));
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|_| foreign("it is shorter than a header"))?;
    let length = u64::from_le_bytes(start);
    if length > MAX_HEADER_BYTES {
        return Err(foreign(match start.starts_with(b"PK\x03\x04") {
            true => {
                "it is a zip archive, as PyTorch's .pth and .pt files are; in Python: \
                 safetensors.torch.save_file(torch.load(\"FILE.pth\", map_location=\"cpu\"), \"FILE.safetensors\")"
            }
            false => "it claims a header of more than 100 MB",
        }));
    }
    if 8 + length > about.len() {
        return Err(foreign("its header is longer than the file"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| foreign(&format!("its header: {e}")))?;
    let mut infos: Vec<_> = header.tensors().into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let data = infos.last().map_or(0, |(_, info)| info.data_offsets.1 as u64);
    let expected = (8 + length).checked_add(data).ok_or_else(|| foreign("it claims more bytes than there can be"))?;
    if about.len() < expected {
        return Err(wrong(&format!("the file is cut short: {} bytes of {expected}; copy it again", about.len())));
    }
    if about.len() > expected {
        return Err(wrong(&format!("the file has {} bytes, its header says {expected}", about.len())));
    }
    let mut tensors = BTreeMap::new();
    let mut bytes = Vec::new();
    for (name, info) in infos {
        bytes.resize(info.data_offsets.1 - info.data_offsets.0, 0);
        file.read_exact(&mut bytes).map_err(io)?;
        let tensor = convert(info.dtype, info.shape.clone(), &bytes);
        if let Some(tensor) = tensor.map_err(|m| wrong(&format!("{name}: {m}")))? {
            tensors.insert(name.clone(), tensor);
        }
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Contents { tensors, metadata })
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::U32 => "U32",
        DType::U8 => "U8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    fn content() -> (BTreeMap<String, Tensor>, BTreeMap<String, String>) {
        let tensors = [
            ("b", Tensor::f32([2, 3], vec![0.5, -0.0, f32::MAX, 1e-45, 5.0, 6.0]).unwrap()),
            ("a", Tensor::new([3], Data::U8(vec![1, 2, 255])).unwrap()),
            ("c", Tensor::u32([], vec![u32::MAX]).unwrap()),
            ("empty", Tensor::f32([0, 4], vec![]).unwrap()),
        ];
        let metadata = (0..4).map(|i| (format!("key {i}"), format!("\"value\"\n{i} é"))).collect();
        (tensors.map(|(name, tensor)| (name.into(), tensor)).into(), metadata)
    }

    #[test]
    fn comes_back_as_it_went_and_the_same_bytes_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("x"), folder.path().join("y"));
        let (tensors, metadata) = content();
        save(&path, &tensors, &metadata).unwrap();
        save(&again, &tensors, &metadata).unwrap();
        assert_eq!(load(&path).unwrap(), Contents { tensors: tensors.clone(), metadata });
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, std::fs::read(&again).unwrap());
        // The crate, which other programs use, reads it too, and finds every tensor aligned.
        let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), tensors.len());
        assert_eq!(read.tensor("b").unwrap().data(), tensors["b"].bytes());
        save(&path, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert_eq!(load(&path).unwrap(), Contents::default());
    }

    /// One after the other they make the same file, and where one cannot be had the last good file stays.
    #[test]
    fn tensors_may_come_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let (path, each) = (folder.path().join("x"), folder.path().join("y"));
        let (tensors, metadata) = content();
        let types = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.ty())).collect();
        save(&path, &tensors, &metadata).unwrap();
        save_each(&each, &types, &metadata, |name| Ok(tensors[name].clone())).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&each).unwrap());
        let lost = |name: &str| if name == "c" { Err(Error::device("lost")) } else { Ok(tensors[name].clone()) };
        assert_eq!(
            save_each(&each, &types, &metadata, lost).unwrap_err().to_string(),
            Error::device("lost").to_string()
        );
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&each).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    /// Every shorter file, every longer one, and any one byte of the header changed: an error or other content, never a panic.
    #[test]
    fn corrupt_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let (tensors, metadata) = content();
        save(&path, &tensors, &metadata).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("x.safetensors") && !error.contains('\n'), "{length}: {error}");
        }
        std::fs::write(&path, [&whole[..], b"\0"].concat()).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("its header says"));
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x15;
            std::fs::write(&path, changed).unwrap();
            let _ = load(&path);
        }
        for foreign in [&b"PK\x03\x04 a zip file of PyTorch"[..], b"", b"\x89PNG\r\n\x1a\n and so on"] {
            std::fs::write(&path, foreign).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("not a safetensors file"), "{error}");
            assert_eq!(error.contains("save_file"), foreign.starts_with(b"PK"), "{error}");
        }
        assert!(load(folder.path()).is_err());
        assert!(load(&folder.path().join("missing")).unwrap_err().to_string().contains("cannot read"));
    }

    #[test]
    fn other_element_types_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let header = br#"{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}  "#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0, 0]].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("w: elements of type F16"), "{error}");
    }

    /// Numbers of other widths become f32; whole ones are passed over.
    #[test]
    fn floats_of_other_programs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let header = br#"{"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},"d":{"dtype":"F64","shape":[1],"data_offsets":[16,24]},"n":{"dtype":"I64","shape":[],"data_offsets":[24,32]}}"#;
        let halves: Vec<u8> = [0x3c00_u16, 0xc100, 0x0001, 0x7bff, 0x8000, 0x7c00].map(u16::to_le_bytes).concat();
        let bfloats: Vec<u8> = [0x3f80_u16, 0xc048].map(u16::to_le_bytes).concat();
        let data = [&halves[..], &bfloats, &0.1_f64.to_le_bytes(), &7_i64.to_le_bytes()].concat();
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &data].concat()).unwrap();
        let found = load_floats(&path).unwrap().tensors;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["b", "d", "h"]);
        let expected = [1.0, -2.5, 2.0_f32.powi(-24), 65504.0, -0.0, f32::INFINITY];
        assert_eq!(found["h"].as_f32().unwrap(), expected);
        assert_eq!(found["b"].as_f32().unwrap(), [1.0, -3.125]);
        assert_eq!(found["d"].as_f32().unwrap(), [0.1]);
    }
}
