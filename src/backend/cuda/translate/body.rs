//! What a function computes: statements and expressions.

use std::collections::HashMap;
use std::fmt::Write as _;

use naga::proc::TypeResolution;
use naga::valid::FunctionInfo;
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, GatherMode, Handle, MathFunction, RelationalFunction,
    Scalar, ScalarKind, Statement, SwitchValue, TypeInner, UnaryOperator,
};

use super::{Writer, member_name, scalar_name, told};

/// The body of a function that is being written.
pub(super) struct Body<'w, 'a> {
    pub writer: &'w mut Writer<'a>,
    pub function: &'a Function,
    pub info: &'a FunctionInfo,
    /// Expressions that were computed.
    pub named: HashMap<Handle<Expression>, String>,
    pub depth: usize,
}

impl<'a> Body<'_, 'a> {
    pub fn line(&mut self, text: &str) -> Result<(), String> {
        writeln!(self.writer.text, "{:1$}{text}", "", 4 * self.depth).map_err(told)
    }

    fn of(&self, expression: Handle<Expression>) -> &'a TypeInner {
        self.writer.of(self.info, expression)
    }

    /// Whether it is a sum of products of floats.
    fn is_dot(&self, expression: Handle<Expression>) -> bool {
        let dot = matches!(self.function.expressions[expression], Expression::Math { fun: MathFunction::Dot, .. });
        dot && scalar_of(self.of(expression)) == Some(ScalarKind::Float)
    }

    fn inside(&mut self, block: &'a Block) -> Result<(), String> {
        self.depth += 1;
        self.block(block)?;
        self.depth -= 1;
        Ok(())
    }

    pub fn block(&mut self, block: &'a Block) -> Result<(), String> {
        block.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<(), String> {
        match statement {
            Statement::Emit(range) => range.clone().try_for_each(|handle| self.emit(handle)),
            Statement::Block(block) => {
                self.line("{")?;
                self.inside(block)?;
                self.line("}")
            }
            Statement::If { condition, accept, reject } => {
                let condition = self.value(*condition)?;
                self.line(&format!("if ({condition}) {{"))?;
                self.inside(accept)?;
                if !reject.is_empty() {
                    self.line("} else {")?;
                    self.inside(reject)?;
                }
                self.line("}")
            }
            Statement::Switch { selector, cases } => {
                let selector = self.value(*selector)?;
                self.line(&format!("switch ({selector}) {{"))?;
                for case in cases {
                    let label = match case.value {
                        SwitchValue::I32(v) => format!("case {v}: {{"),
                        SwitchValue::U32(v) => format!("case {v}u: {{"),
                        SwitchValue::Default => "default: {".into(),
                    };
                    self.line(&label)?;
                    self.inside(&case.body)?;
                    self.line(if case.fall_through { "}" } else { "break; }" })?;
                }
                self.line("}")
            }
            Statement::Loop { body, continuing, break_if } => self.repeat(body, continuing, *break_if),
            Statement::Break => self.line("break;"),
            Statement::Continue => self.line("continue;"),
            Statement::Return { value: None } => self.line("return;"),
            Statement::Return { value: Some(value) } => {
                let value = self.value(*value)?;
                self.line(&format!("return {value};"))
            }
            Statement::ControlBarrier(_) => self.line("__syncthreads();"),
            Statement::Store { pointer, value } => {
                let (place, value) = (self.place(*pointer)?, self.value(*value)?);
                self.line(&format!("{place} = {value};"))
            }
            Statement::Call { function, arguments, result } => {
                let callee = &self.writer.module.functions[*function];
                let globals = self.writer.globals(&self.writer.info[*function]);
                let bound = globals.iter().filter(|(_, variable)| variable.space != AddressSpace::WorkGroup);
                let mut given: Vec<String> = bound.map(|(_, variable)| self.writer.global(variable)).collect();
                for &argument in arguments {
                    given.push(match self.of(argument) {
                        TypeInner::Pointer { .. } => format!("&{}", self.place(argument)?),
                        _ => self.value(argument)?,
                    });
                }
                let call = format!("f_{}({})", callee.name.as_deref().unwrap_or_default(), given.join(", "));
                match result {
                    Some(result) => self.name(*result, &call),
                    None => self.line(&format!("{call};")),
                }
            }
            Statement::SubgroupGather { mode, argument, result } => {
                let from = match mode {
                    GatherMode::BroadcastFirst => "0u".into(),
                    GatherMode::Broadcast(lane) | GatherMode::Shuffle(lane) => self.value(*lane)?,
                    other => return Err(format!("the gathering {other:?}")),
                };
                let call = format!("from_lane({}, {from})", self.value(*argument)?);
                self.name(*result, &call)
            }
            other => Err(format!("the statement {other:?}")),
        }
    }

    /// A loop. What comes after each round is in front of the next one where a round may be cut short.
    fn repeat(
        &mut self,
        body: &'a Block,
        continuing: &'a Block,
        break_if: Option<Handle<Expression>>,
    ) -> Result<(), String> {
        let first = format!("first{}", self.named.len());
        let cut_short = continues(body) && !(continuing.is_empty() && break_if.is_none());
        if cut_short {
            self.line(&format!("bool {first} = true;"))?;
        }
        self.line("while (true) {")?;
        self.depth += 1;
        if cut_short {
            self.line(&format!("if (!{first}) {{"))?;
            self.depth += 1;
            self.after_round(continuing, break_if)?;
            self.depth -= 1;
            self.line("}")?;
            self.line(&format!("{first} = false;"))?;
        }
        self.block(body)?;
        if !cut_short {
            self.after_round(continuing, break_if)?;
        }
        self.depth -= 1;
        self.line("}")
    }

    fn after_round(&mut self, continuing: &'a Block, break_if: Option<Handle<Expression>>) -> Result<(), String> {
        self.block(continuing)?;
        match break_if {
            Some(condition) => {
                let condition = self.value(condition)?;
                self.line(&format!("if ({condition}) break;"))
            }
            None => Ok(()),
        }
    }

    /// Computes an expression, unless it only says a place.
    fn emit(&mut self, handle: Handle<Expression>) -> Result<(), String> {
        match self.of(handle) {
            TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. } => Ok(()),
            _ => {
                let text = self.computed(handle)?;
                self.name(handle, &text)
            }
        }
    }

    fn name(&mut self, handle: Handle<Expression>, text: &str) -> Result<(), String> {
        let ty = match &self.info[handle].ty {
            TypeResolution::Handle(ty) => self.writer.ty(*ty)?,
            TypeResolution::Value(inner) => self.writer.inner(inner)?,
        };
        let known = self.function.named_expressions.get(&handle);
        let name = format!("{}_{}", known.map_or("e", |name| name.as_str()), handle.index());
        self.line(&format!("const {ty} {name} = {text};"))?;
        self.named.insert(handle, name);
        Ok(())
    }

    /// The place that a pointer says.
    fn place(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        match &self.function.expressions[handle] {
            Expression::GlobalVariable(variable) => {
                Ok(self.writer.global(&self.writer.module.global_variables[*variable]))
            }
            Expression::LocalVariable(variable) => Ok(format!("v{}", variable.index())),
            Expression::FunctionArgument(index) => Ok(format!("(*a{index})")),
            Expression::Access { base, index } => {
                let (index, of) = (self.value(*index)?, self.of(*base));
                let base = self.place(*base)?;
                self.element(&base, of, &index)
            }
            Expression::AccessIndex { base, index } => {
                let of = self.of(*base);
                let base = self.place(*base)?;
                self.part(&base, of, *index)
            }
            other => Err(format!("the place {other:?}")),
        }
    }

    /// An element of an array or vector, or of what a pointer to one says.
    fn element(&self, base: &str, of: &TypeInner, index: &str) -> Result<String, String> {
        let types = &self.writer.module.types;
        match of {
            TypeInner::Pointer { base: pointed, .. } => self.element(base, &types[*pointed].inner, index),
            TypeInner::Array { .. } => Ok(format!("{base}[{index}]")),
            TypeInner::Vector { .. } | TypeInner::ValuePointer { size: Some(_), .. } => {
                Ok(format!("at({base}, {index})"))
            }
            other => Err(format!("an element of {other:?}")),
        }
    }

    /// A member of a struct, a component of a vector, an element of an array.
    fn part(&self, base: &str, of: &TypeInner, index: u32) -> Result<String, String> {
        let types = &self.writer.module.types;
        match of {
            TypeInner::Pointer { base: pointed, .. } => self.part(base, &types[*pointed].inner, index),
            TypeInner::Struct { members, .. } => {
                let index = index as usize;
                Ok(format!("{base}.{}", member_name(index, &members[index].name)))
            }
            TypeInner::Array { .. } => Ok(format!("{base}[{index}]")),
            TypeInner::Vector { .. } | TypeInner::ValuePointer { size: Some(_), .. } => {
                Ok(format!("{base}.{}", component(index as usize)?))
            }
            other => Err(format!("a part of {other:?}")),
        }
    }

    /// A value: the name of what was computed, or what needs no computing.
    pub fn value(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        match self.named.get(&handle) {
            Some(name) => Ok(name.clone()),
            None => self.computed(handle),
        }
    }

    fn values(&mut self, handles: impl IntoIterator<Item = Handle<Expression>>) -> Result<Vec<String>, String> {
        handles.into_iter().map(|handle| self.value(handle)).collect()
    }

    fn computed(&mut self, handle: Handle<Expression>) -> Result<String, String> {
        let expression = &self.function.expressions[handle];
        Ok(match expression {
            Expression::Literal(literal) => self.writer.literal(*literal)?,
            Expression::Constant(constant) => self.writer.constant(self.writer.module.constants[*constant].init)?,
            Expression::ZeroValue(ty) => format!("{}{{}}", self.writer.ty(*ty)?),
            Expression::Compose { ty, components } => {
                let parts = self.values(components.iter().copied())?;
                self.writer.composed(*ty, &parts)?
            }
            Expression::Access { base, index } => {
                let (base_text, index) = (self.value(*base)?, self.value(*index)?);
                self.element(&base_text, self.of(*base), &index)?
            }
            Expression::AccessIndex { base, index } => {
                let base_text = self.value(*base)?;
                self.part(&base_text, self.of(*base), *index)?
            }
            Expression::Splat { size, value } => format!("splat<{}>({})", *size as u32, self.value(*value)?),
            Expression::Swizzle { size, vector, pattern } => {
                let vector_text = self.value(*vector)?;
                let TypeInner::Vector { scalar, .. } = self.of(*vector) else { return Err("a swizzle".into()) };
                let components = pattern[..*size as usize].iter();
                let parts: Vec<String> = components
                    .map(|&part| Ok(format!("{vector_text}.{}", component(part as usize)?)))
                    .collect::<Result<_, String>>()?;
                format!("vec<{}, {}>{{{}}}", *size as u32, scalar_name(*scalar)?, parts.join(", "))
            }
            Expression::FunctionArgument(index) => format!("a{index}"),
            Expression::Load { pointer } => self.place(*pointer)?,
            Expression::Unary { op, expr } => {
                let value = self.value(*expr)?;
                match (op, scalar_of(self.of(*expr))) {
                    (UnaryOperator::Negate, Some(ScalarKind::Sint)) => {
                        format!("wrapping_sub(splat_like({value}), {value})")
                    }
                    (UnaryOperator::Negate, _) => format!("-{value}"),
                    (UnaryOperator::LogicalNot, _) => format!("!{value}"),
                    (UnaryOperator::BitwiseNot, _) => format!("~{value}"),
                }
            }
            // One multiply-add after another: the sum of products alone would cost a multiplication and an addition more.
            Expression::Binary { op: BinaryOperator::Add, left, right } if self.is_dot(*right) => {
                let Expression::Math { arg, arg1: Some(other), .. } = self.function.expressions[*right] else {
                    return Err("a product of vectors without a second one".into());
                };
                let given = self.values([*left, arg, other])?;
                format!("dot_add({})", given.join(", "))
            }
            Expression::Binary { op, left, right } => {
                let kind = scalar_of(self.of(*left));
                let (left, right) = (self.value(*left)?, self.value(*right)?);
                binary(*op, kind, &left, &right)
            }
            Expression::Select { condition, accept, reject } => {
                let [choice, accept, reject] = [self.value(*condition)?, self.value(*accept)?, self.value(*reject)?];
                match self.of(*condition) {
                    TypeInner::Vector { .. } => format!("select({choice}, {accept}, {reject})"),
                    _ => format!("({choice} ? {accept} : {reject})"),
                }
            }
            Expression::Relational { fun, argument } => {
                let argument = self.value(*argument)?;
                match fun {
                    RelationalFunction::All => format!("all({argument})"),
                    RelationalFunction::Any => format!("any({argument})"),
                    other => return Err(format!("the function {other:?}")),
                }
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let given = self.values([Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten())?;
                format!("{}({})", math(*fun)?, given.join(", "))
            }
            Expression::As { expr, kind, convert } => {
                let value = self.value(*expr)?;
                let width = match (*convert, scalar_of_width(self.of(*expr))) {
                    (Some(width), _) => width,
                    (None, Some(width)) => width,
                    (None, None) => return Err("a bit cast of what has no width".into()),
                };
                let to = scalar_name(Scalar { kind: *kind, width })?;
                format!("{}<{to}>({value})", if convert.is_some() { "convert" } else { "bitcast" })
            }
            other => return Err(format!("the expression {other:?}")),
        })
    }
}

fn component(index: usize) -> Result<&'static str, String> {
    ["x", "y", "z", "w"].get(index).copied().ok_or_else(|| format!("component {index}"))
}

fn scalar_of(inner: &TypeInner) -> Option<ScalarKind> {
    inner.scalar().map(|scalar| scalar.kind)
}

fn scalar_of_width(inner: &TypeInner) -> Option<u8> {
    inner.scalar().map(|scalar| scalar.width)
}

/// Signed sums and products wrap in WGSL, and are undefined in C++ where they do.
fn binary(op: BinaryOperator, kind: Option<ScalarKind>, left: &str, right: &str) -> String {
    let operator = match op {
        BinaryOperator::Add if kind == Some(ScalarKind::Sint) => return format!("wrapping_add({left}, {right})"),
        BinaryOperator::Subtract if kind == Some(ScalarKind::Sint) => return format!("wrapping_sub({left}, {right})"),
        BinaryOperator::Multiply if kind == Some(ScalarKind::Sint) => return format!("wrapping_mul({left}, {right})"),
        BinaryOperator::Modulo if kind == Some(ScalarKind::Float) => return format!("fmod({left}, {right})"),
        BinaryOperator::Add => "+",
        BinaryOperator::Subtract => "-",
        BinaryOperator::Multiply => "*",
        BinaryOperator::Divide => "/",
        BinaryOperator::Modulo => "%",
        BinaryOperator::Equal => "==",
        BinaryOperator::NotEqual => "!=",
        BinaryOperator::Less => "<",
        BinaryOperator::LessEqual => "<=",
        BinaryOperator::Greater => ">",
        BinaryOperator::GreaterEqual => ">=",
        BinaryOperator::And => "&",
        BinaryOperator::ExclusiveOr => "^",
        BinaryOperator::InclusiveOr => "|",
        BinaryOperator::LogicalAnd => "&&",
        BinaryOperator::LogicalOr => "||",
        BinaryOperator::ShiftLeft => "<<",
        BinaryOperator::ShiftRight => ">>",
    };
    format!("{left} {operator} {right}")
}

/// The prelude's name of a function.
fn math(fun: MathFunction) -> Result<&'static str, String> {
    Ok(match fun {
        MathFunction::Abs => "abs_of",
        MathFunction::Min => "min_of",
        MathFunction::Max => "max_of",
        MathFunction::Clamp => "clamp_of",
        MathFunction::Floor => "floor_of",
        MathFunction::Ceil => "ceil_of",
        MathFunction::Exp => "exp_of",
        MathFunction::Exp2 => "exp2_of",
        MathFunction::Log => "log_of",
        MathFunction::Log2 => "log2_of",
        MathFunction::Pow => "pow_of",
        MathFunction::Dot => "dot",
        MathFunction::Sign => "sign_of",
        MathFunction::Fma => "fma_of",
        MathFunction::Mix => "mix_of",
        MathFunction::Sqrt => "sqrt_of",
        MathFunction::InverseSqrt => "inverse_sqrt_of",
        MathFunction::Tanh => "tanh_of",
        other => return Err(format!("the function {other:?}")),
    })
}

/// Whether a loop's body cuts its rounds short: not the bodies of loops in it.
fn continues(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Continue => true,
        Statement::Block(block) => continues(block),
        Statement::If { accept, reject, .. } => continues(accept) || continues(reject),
        Statement::Switch { cases, .. } => cases.iter().any(|case| continues(&case.body)),
        _ => false,
    })
}
