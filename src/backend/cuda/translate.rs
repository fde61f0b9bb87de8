//! WGSL kernels as CUDA C++: one source for every vendor. What the kernels are made of is translated, expression by expression; anything
//! else is an error that names it. The text needs `prelude.cuh` in front.
//!
//! Every expression that is computed gets a name where the shader computes it, so that loads and stores keep their order; expressions
//! that only say a place (pointers) are written where they are used.

mod body;

use std::collections::HashMap;
use std::fmt::Write as _;

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, FunctionInfo, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, ArraySize, BuiltIn, Expression, Function, GlobalVariable, Handle, Literal, Module, Scalar,
    ScalarKind, ShaderStage, StorageAccess, Type, TypeInner,
};

use crate::backend::wgpu::dispatch::Dispatch;
use body::Body;

/// A kernel in CUDA C++.
pub(in crate::backend) struct Translated {
    /// All of it.
    pub text: String,
    /// Numbers of the bindings that are its parameters, in order: pointers to buffers, uniform structs by value.
    pub bindings: Vec<u32>,
}

/// What stands in front of every kernel.
pub(super) const PRELUDE: &str = include_str!("prelude.cuh");

/// The module of a dispatch, its pipeline's constants filled in.
///
/// # Errors
/// What naga says against the kernel.
pub(in crate::backend) fn module(dispatch: &Dispatch) -> Result<(Module, ModuleInfo), String> {
    let kernel = &dispatch.kernel;
    let module = naga::front::wgsl::parse_str(&kernel.source).map_err(|e| e.to_string())?;
    let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| format!("{e:?}"))?;
    let constants = dispatch.overrides.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((ShaderStage::Compute, kernel.entry));
    let (module, info) = process_overrides(&module, &info, entry, &constants).map_err(|e| e.to_string())?;
    Ok((module.into_owned(), info.into_owned()))
}

/// Translates an entry point of a module whose overrides have their values.
///
/// # Errors
/// What cannot be translated.
pub(in crate::backend) fn kernel(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Translated, String> {
    let index = module.entry_points.iter().position(|point| point.name == entry).ok_or("no such entry point")?;
    let mut writer = Writer { module, info, text: format!("{PRELUDE}\n") };
    let point = &module.entry_points[index];
    let used = writer.globals(info.get_entry_point(index));
    for (handle, ty) in module.types.iter() {
        if let TypeInner::Struct { .. } = ty.inner {
            writer.structure(handle)?;
        }
    }
    for &(_, variable) in used.iter().filter(|(_, variable)| variable.space == AddressSpace::WorkGroup) {
        let (ty, name) = (writer.ty(variable.ty)?, writer.global(variable));
        writeln!(writer.text, "__shared__ {ty} {name};").map_err(told)?;
    }
    // naga has functions before those that call them.
    for (handle, function) in module.functions.iter() {
        writer.function(function, &info[handle], Head::Device)?;
    }
    let size = point.workgroup_size.iter().product();
    writer.function(&point.function, info.get_entry_point(index), Head::Kernel { size })?;
    let bindings = used.iter().filter_map(|(_, variable)| variable.binding).map(|binding| binding.binding).collect();
    Ok(Translated { text: writer.text, bindings })
}

fn told(error: std::fmt::Error) -> String {
    error.to_string()
}

/// What stands in front of a function.
#[derive(Clone, Copy)]
enum Head {
    Device,
    Kernel {
        /// Threads of a block.
        size: u32,
    },
}

struct Writer<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    text: String,
}

impl<'a> Writer<'a> {
    /// The global variables that a function and those that it calls use.
    fn globals(&self, info: &FunctionInfo) -> Vec<(Handle<GlobalVariable>, &'a GlobalVariable)> {
        let used = self.module.global_variables.iter().filter(|(handle, _)| info[*handle] != GlobalUse::empty());
        let mut used: Vec<_> = used.collect();
        used.sort_by_key(|(handle, variable)| (variable.binding.map(|binding| binding.binding), handle.index()));
        used
    }

    fn global(&self, variable: &GlobalVariable) -> String {
        format!("g_{}", variable.name.as_deref().unwrap_or_default())
    }

    fn ty(&self, handle: Handle<Type>) -> Result<String, String> {
        let ty = &self.module.types[handle];
        match (&ty.inner, &ty.name) {
            (TypeInner::Struct { .. }, Some(name)) => Ok(format!("{name}_{}", handle.index())),
            (inner, _) => self.inner(inner),
        }
    }

    fn inner(&self, inner: &TypeInner) -> Result<String, String> {
        Ok(match *inner {
            TypeInner::Scalar(scalar) => scalar_name(scalar)?.into(),
            TypeInner::Vector { size, scalar } => format!("vec<{}, {}>", size as u32, scalar_name(scalar)?),
            TypeInner::Array { base, size: ArraySize::Constant(n), .. } => format!("array<{}, {n}>", self.ty(base)?),
            TypeInner::Pointer { base, .. } => format!("{}*", self.ty(base)?),
            ref other => return Err(format!("the type {other:?}")),
        })
    }

    fn of(&self, info: &'a FunctionInfo, expression: Handle<Expression>) -> &'a TypeInner {
        info[expression].ty.inner_with(&self.module.types)
    }

    /// A struct laid out as WGSL has it.
    fn structure(&mut self, handle: Handle<Type>) -> Result<(), String> {
        let TypeInner::Struct { members, span } = &self.module.types[handle].inner else { return Ok(()) };
        if members.iter().any(|member| self.ty(member.ty).is_err()) {
            return Ok(()); // none that a kernel can pass on
        }
        let name = self.ty(handle)?;
        let (mut text, mut end, mut gaps) = (format!("struct {name} {{\n"), 0, 0);
        let mut pad = |text: &mut String, from: u32, to: u32| -> Result<(), String> {
            if to > from {
                gaps += 1;
                writeln!(text, "    unsigned char gap{gaps}[{}];", to - from).map_err(told)?;
            }
            Ok(())
        };
        for (index, member) in members.iter().enumerate() {
            pad(&mut text, end, member.offset)?;
            writeln!(text, "    {} {};", self.ty(member.ty)?, member_name(index, &member.name)).map_err(told)?;
            end = member.offset + self.module.types[member.ty].inner.size(self.module.to_ctx());
        }
        pad(&mut text, end, *span)?;
        writeln!(self.text, "{text}}};").map_err(told)?;
        writeln!(self.text, "static_assert(sizeof({name}) == {span}, \"laid out as WGSL has it\");").map_err(told)?;
        let (mut parts, mut sets) = (Vec::new(), String::new());
        for (index, member) in members.iter().enumerate() {
            parts.push(format!("{} m{index}", self.ty(member.ty)?));
            write!(sets, " s.{} = m{index};", member_name(index, &member.name)).map_err(told)?;
        }
        let parts = parts.join(", ");
        writeln!(self.text, "__device__ static inline {name} make_{name}({parts}) {{ {name} s;{sets} return s; }}")
            .map_err(told)
    }

    /// A buffer or uniform struct as a parameter of a function.
    fn parameter(&self, variable: &GlobalVariable, head: Head) -> Result<String, String> {
        let name = self.global(variable);
        match (variable.space, &self.module.types[variable.ty].inner) {
            (AddressSpace::Uniform, _) => {
                let by = if matches!(head, Head::Device) { "&" } else { "" };
                Ok(format!("const {}{by} {name}", self.ty(variable.ty)?))
            }
            (AddressSpace::Storage { access }, &TypeInner::Array { base, size: ArraySize::Dynamic, .. }) => {
                let constant = if access.contains(StorageAccess::STORE) { "" } else { "const " };
                Ok(format!("{constant}{}* __restrict__ {name}", self.ty(base)?))
            }
            (space, inner) => Err(format!("{name}, of {space:?} and type {inner:?}")),
        }
    }

    fn function(&mut self, function: &'a Function, info: &'a FunctionInfo, head: Head) -> Result<(), String> {
        let globals = self.globals(info);
        let bound = globals.iter().filter(|(_, variable)| variable.space != AddressSpace::WorkGroup);
        let mut parameters = Vec::new();
        for &(_, variable) in bound {
            match self.parameter(variable, head) {
                Ok(parameter) => parameters.push(parameter),
                // A function that only others' kernels call.
                Err(_) if matches!(head, Head::Device) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let mut builtins = String::new();
        for (index, argument) in function.arguments.iter().enumerate() {
            let ty = self.ty(argument.ty)?;
            match (&argument.binding, head) {
                (Some(naga::Binding::BuiltIn(builtin)), Head::Kernel { .. }) => {
                    writeln!(builtins, "    const {ty} a{index} = {};", builtin_value(*builtin)?).map_err(told)?;
                }
                _ => parameters.push(format!("{ty} a{index}")),
            }
        }
        let result = function.result.as_ref().map_or(Ok("void".into()), |result| self.ty(result.ty))?;
        let name = function.name.as_deref().unwrap_or_default();
        let front = match head {
            Head::Device => format!("__device__ static inline {result} f_{name}"),
            Head::Kernel { size } => format!("KERNEL({size}) {name}"),
        };
        writeln!(self.text, "{front}({}) {{\n{builtins}", parameters.join(", ")).map_err(told)?;
        let mut body = Body { writer: self, function, info, named: HashMap::new(), depth: 1 };
        for (handle, variable) in function.local_variables.iter() {
            let ty = body.writer.ty(variable.ty)?;
            let first = variable.init.map_or_else(|| Ok(format!("{ty}{{}}")), |init| body.value(init))?;
            body.line(&format!("{ty} v{} = {first};", handle.index()))?;
        }
        body.block(&function.body)?;
        writeln!(self.text, "}}\n").map_err(told)
    }

    fn literal(&self, literal: Literal) -> Result<String, String> {
        Ok(match literal {
            Literal::F32(v) if v.is_finite() => format!("{v:?}f"),
            Literal::F16(v) => format!("convert<half>({:?}f)", v.to_f32()),
            Literal::U32(v) => format!("{v}u"),
            Literal::I32(i32::MIN) => "(-2147483647 - 1)".into(),
            Literal::I32(v) => format!("({v})"),
            Literal::Bool(v) => v.to_string(),
            other => return Err(format!("the literal {other:?}")),
        })
    }

    /// A constant expression of the module.
    fn constant(&self, handle: Handle<Expression>) -> Result<String, String> {
        match &self.module.global_expressions[handle] {
            Expression::Literal(literal) => self.literal(*literal),
            Expression::Constant(constant) => self.constant(self.module.constants[*constant].init),
            Expression::ZeroValue(ty) => Ok(format!("{}{{}}", self.ty(*ty)?)),
            Expression::Splat { size, value } => Ok(format!("splat<{}>({})", *size as u32, self.constant(*value)?)),
            Expression::Compose { ty, components } => {
                let parts: Vec<String> =
                    components.iter().map(|&part| self.constant(part)).collect::<Result<_, _>>()?;
                self.composed(*ty, &parts)
            }
            other => Err(format!("the constant {other:?}")),
        }
    }

    fn composed(&self, ty: Handle<Type>, parts: &[String]) -> Result<String, String> {
        match self.module.types[ty].inner {
            TypeInner::Vector { size, scalar } => {
                Ok(format!("join<{}, {}>({})", size as u32, scalar_name(scalar)?, parts.join(", ")))
            }
            TypeInner::Array { .. } => Ok(format!("{}{{{{{}}}}}", self.ty(ty)?, parts.join(", "))),
            TypeInner::Struct { .. } => Ok(format!("make_{}({})", self.ty(ty)?, parts.join(", "))),
            ref other => Err(format!("a value of {other:?}")),
        }
    }
}

fn member_name(index: usize, name: &Option<String>) -> String {
    format!("{}_{index}", name.as_deref().unwrap_or_default())
}

fn scalar_name(scalar: Scalar) -> Result<&'static str, String> {
    match (scalar.kind, scalar.width) {
        (ScalarKind::Sint, 4) => Ok("int"),
        (ScalarKind::Uint, 4) => Ok("unsigned"),
        (ScalarKind::Float, 4) => Ok("float"),
        (ScalarKind::Float, 2) => Ok("half"),
        (ScalarKind::Bool, _) => Ok("bool"),
        _ => Err(format!("the scalar {scalar:?}")),
    }
}

/// What CUDA has for what WGSL hands an entry point.
fn builtin_value(builtin: BuiltIn) -> Result<&'static str, String> {
    Ok(match builtin {
        BuiltIn::WorkGroupId => "vec<3, unsigned>{blockIdx.x, blockIdx.y, blockIdx.z}",
        BuiltIn::NumWorkGroups => "vec<3, unsigned>{gridDim.x, gridDim.y, gridDim.z}",
        BuiltIn::LocalInvocationId => "vec<3, unsigned>{threadIdx.x, threadIdx.y, threadIdx.z}",
        BuiltIn::LocalInvocationIndex => "thread_index()",
        BuiltIn::GlobalInvocationId => "global_index()",
        BuiltIn::SubgroupSize => "32u",
        BuiltIn::SubgroupInvocationId => "thread_index() % 32u",
        other => return Err(format!("the builtin {other:?}")),
    })
}
