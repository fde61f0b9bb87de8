//! Checks every file in `shaders/` with naga, so that a bad shader fails the build, and writes what naga found (source,
//! entry points, bindings, uniform layouts) as a Rust table for `backend::wgpu::shaders`: the host never retypes a binding.

#[path = "src/backend/wgpu/compose.rs"]
mod compose;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, GlobalVariable, Module, StorageAccess, TypeInner};

use compose::Source;

fn main() {
    println!("cargo::rerun-if-changed=shaders");
    println!("cargo::rerun-if-changed=src/backend/wgpu/compose.rs");
    println!("cargo::rerun-if-changed=src/backend/wgpu/expand.rs");
    match generate() {
        Ok(table) => {
            let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shaders.rs");
            fs::write(&out, table).unwrap_or_else(|e| println!("cargo::error={}: {e}", out.display()));
        }
        Err(messages) => messages.lines().for_each(|line| println!("cargo::error={line}")),
    }
}

/// The Rust table of all shaders, or every file's complaint.
fn generate() -> Result<String, String> {
    let mut files: Vec<PathBuf> = fs::read_dir("shaders")
        .map_err(|e| format!("shaders: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .collect();
    files.sort();
    let (mut table, mut errors) = (String::new(), Vec::new());
    for path in files {
        match modules(&path) {
            Ok(modules) => table += &modules,
            Err(message) => errors.push(message),
        }
    }
    if errors.is_empty() { Ok(table) } else { Err(errors.join("\n")) }
}

/// The module of a file, and where it has a twin in 16-bit floats that one's, `<stem>_f16`.
fn modules(path: &Path) -> Result<String, String> {
    let read = &|path: &Path| fs::read_to_string(path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a shader's name is not UTF-8")?;
    let mut modules = Source::compose(path, read)?.reflect(stem)?;
    if let Some(twin) = Source::compose_f16(path, read)? {
        modules += &twin.reflect(&format!("{stem}_f16"))?;
    }
    Ok(modules)
}

impl Source {
    /// Parses and validates, and writes the module `pub mod <name>` with one `Kernel` for each entry point.
    fn reflect(&self, name: &str) -> Result<String, String> {
        let module = naga::front::wgsl::parse_str(&self.text)
            .map_err(|e| self.complaint(e.location(&self.text).map(|l| l.line_number), e.message()))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).map_err(|e| {
            let line = e.location(&self.text).map(|l| l.line_number);
            let mut causes = e.as_inner().to_string();
            let mut cause = std::error::Error::source(e.as_inner());
            while let Some(inner) = cause {
                write!(causes, ": {inner}").expect("writing to a string");
                cause = inner.source();
            }
            self.complaint(line, &causes)
        })?;
        if module.entry_points.is_empty() {
            return Ok(String::new()); // a file to be included
        }
        let mut out = format!("/// Of `shaders`.\npub(crate) mod {name} {{\n    use super::*;\n\n");
        writeln!(out, "    const SOURCE: &str = {:?};", self.text).expect("writing to a string");
        for index in 0..module.entry_points.len() {
            out += &self.kernel(name, &module, &info, index)?;
        }
        Ok(out + "}\n")
    }

    fn kernel(&self, file: &str, module: &Module, info: &ModuleInfo, index: usize) -> Result<String, String> {
        let entry = &module.entry_points[index];
        if entry.workgroup_size_overrides.is_some() {
            return Err(self.complaint(None, &format!("{}: write the workgroup size as a number", entry.name)));
        }
        let mut bindings = Vec::new();
        for (handle, variable) in module.global_variables.iter() {
            if variable.binding.is_some() && info.get_entry_point(index)[handle] != GlobalUse::empty() {
                bindings.push(self.binding(module, variable)?);
            }
        }
        let overrides: Vec<_> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
        Ok(format!(
            "
    /// Entry point `{entry}`.
    pub(crate) static {upper}: Kernel = Kernel {{
        name: Cow::Borrowed(\"{file}.{entry}\"),
        source: Cow::Borrowed(SOURCE),
        entry: \"{entry}\",
        workgroup: {workgroup:?},
        bindings: &[{bindings}],
        overrides: &{overrides:?},
    }};
",
            entry = entry.name,
            upper = entry.name.to_uppercase(),
            workgroup = entry.workgroup_size,
            bindings = bindings.join(", "),
        ))
    }

    fn binding(&self, module: &Module, variable: &GlobalVariable) -> Result<String, String> {
        let name = variable.name.as_deref().unwrap_or_default();
        let complaint = |message: &str| self.complaint(None, &format!("{name}: {message}"));
        let place = variable.binding.ok_or_else(|| complaint("has no binding"))?;
        if place.group != 0 {
            return Err(complaint("all bindings are in group 0"));
        }
        let kind = match variable.space {
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => "ReadWrite".to_string(),
            AddressSpace::Storage { .. } => "Read".to_string(),
            AddressSpace::Uniform => {
                let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
                    return Err(complaint("a uniform is a struct"));
                };
                let mut fields = Vec::new();
                for member in members {
                    let field = member.name.as_deref().unwrap_or_default();
                    let size = module.types[member.ty].inner.size(module.to_ctx());
                    fields.push(format!("Field {{ name: {field:?}, offset: {}, size: {size} }}", member.offset));
                }
                format!("Uniform {{ size: {span}, fields: &[{}] }}", fields.join(", "))
            }
            AddressSpace::Handle => match module.types[variable.ty].inner {
                TypeInner::Image { class: naga::ImageClass::Storage { access, .. }, .. } => {
                    if access.contains(StorageAccess::STORE) { "WriteTexels" } else { "Texels" }.to_string()
                }
                _ => return Err(complaint("only storage textures are bound")),
            },
            _ => return Err(complaint("only buffers and textures can be bound")),
        };
        Ok(format!("Binding {{ index: {}, name: {name:?}, kind: BindingKind::{kind} }}", place.binding))
    }
}
