//! Members of JSON values, taken of each value in one scan for all expressions that name them.
//!
//! A pass over a finished plan. Where the maps over some rows take members of a JSON column at several places, the rows
//! get a column per member below the maps ([`json_members`]), and the maps name those. If the rows are the elements
//! of a jsonb array, the members are found as the array is taken apart. Taking members can't fail and a member that
//! isn't there is NULL, so it doesn't matter that rows which a map leaves out had theirs taken too.
//!
//! Equal inputs get the members that any of the maps over them wants: so they stay equal, and are computed once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_physical_expr::expressions::Column;
use tidemill_dataflow::plan::{DERIVED_KEY, Node, Op, fingerprint};

use super::expr::{self, Physical};
use super::node;
use crate::functions::json_members::{self, Access, Wanted};
use crate::tree::Tree;

/// Members taken of one column.
#[derive(Clone, Default)]
struct Taken {
    jsonb: bool,
    places: usize,
    wanted: BTreeSet<Wanted>,
    /// The column is used as a whole too.
    whole: bool,
}

/// Members taken of the rows of a node, by column.
type Columns = BTreeMap<usize, Taken>;

/// `root` with members taken together.
pub(super) fn together(root: Node) -> Node {
    let mut root = lowered(root);
    // A member of a member is one of a column once the inner one is a column.
    loop {
        let mut taken = HashMap::new();
        collect(&root, &mut taken);
        taken.retain(|_, columns: &mut Columns| {
            columns.retain(|_, t| t.places > 1);
            !columns.is_empty()
        });
        if taken.is_empty() {
            return root;
        }
        root = rewritten(&root, &taken);
    }
}

/// The access and its column, if `expr` takes a member of a column.
fn of_column(expr: &Physical) -> Option<(usize, Access<'_>)> {
    let access = json_members::access(expr)?;
    Some((expr::as_column(access.value)?, access))
}

fn map_exprs(node: &Node) -> impl Iterator<Item = &Physical> {
    let (predicate, projection) = match &node.op {
        Op::Map {
            predicate,
            projection,
        } => (predicate.as_ref(), projection.as_deref()),
        _ => (None, None),
    };
    predicate.into_iter().chain(projection.unwrap_or_default())
}

/// Calls `f` with every place where `expr` uses a column: takes a member of it, or uses it as a whole.
fn each_use(expr: &Physical, f: &mut dyn FnMut(usize, Option<Access<'_>>)) {
    expr.walk(&mut |e| {
        if let Some((column, access)) = of_column(e) {
            f(column, Some(access));
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Some(column) = expr::as_column(e) {
            f(column, None);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("looking can't fail");
}

/// Calls `f` with every place where `expr` takes a member of a column.
fn each_access(expr: &Physical, f: &mut dyn FnMut(usize, Access<'_>)) {
    each_use(expr, &mut |column, access| {
        if let Some(access) = access {
            f(column, access);
        }
    });
}

/// Maps of maps: a member taken above of a column that the map below only passes on is taken below.
fn lowered(node: Node) -> Node {
    let inputs: Vec<Node> = node.inputs.into_iter().map(lowered).collect();
    let mut node = filtered_first(Node { inputs, ..node });
    let (
        Op::Map {
            predicate,
            projection,
        },
        [below],
    ) = (&node.op, &node.inputs[..])
    else {
        return node;
    };
    let Op::Map {
        predicate: lower_predicate,
        projection: Some(lower),
    } = &below.op
    else {
        return node;
    };
    let mut lower = lower.clone();
    let mut fields: Vec<Field> = below
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    let width = fields.len();
    let mut lower_member = |e: &Physical| -> Option<Physical> {
        let (column, access) = of_column(e)?;
        expr::as_column(&lower[column])?;
        let member = expr::substitute(e, &lower);
        let at = lower
            .iter()
            .position(|have| **have == *member)
            .unwrap_or_else(|| {
                fields.push(derived(&access.wanted, access.jsonb));
                lower.push(member);
                lower.len() - 1
            });
        Some(Arc::new(Column::new(fields[at].name(), at)))
    };
    let predicate = predicate.as_ref().map(|e| replaced(e, &mut lower_member));
    // Without a projection the further columns would be seen above.
    let Some(projection) = projection else {
        return node;
    };
    let projection: Vec<Physical> = (projection.iter())
        .map(|e| replaced(e, &mut lower_member))
        .collect();
    if fields.len() == width {
        return node;
    }
    // What was passed on for its members only isn't any more.
    let mut used = BTreeSet::new();
    for e in predicate.iter().chain(&projection) {
        each_use(e, &mut |column, _| {
            used.insert(column);
        });
    }
    let schema = Arc::new(Schema::new(pick(&fields, &used)));
    let mut moved = |e: &Physical| -> Option<Physical> {
        let at = used.range(..expr::as_column(e)?).count();
        Some(expr::column(&schema, at))
    };
    node.op = Op::Map {
        predicate: predicate.as_ref().map(|e| replaced(e, &mut moved)),
        projection: Some(projection.iter().map(|e| replaced(e, &mut moved)).collect()),
    };
    let op = Op::Map {
        predicate: lower_predicate.clone(),
        projection: Some(pick(&lower, &used)),
    };
    let below = super::node(op, below.inputs.clone(), schema.clone(), below.append_only);
    node.inputs = vec![lowered(below)];
    node
}

fn pick<T: Clone>(all: &[T], used: &BTreeSet<usize>) -> Vec<T> {
    used.iter().map(|i| all[*i].clone()).collect()
}

/// A map that filters by something else than members and then takes several is made two: none are taken of rows that
/// don't stay. Those of an array's elements cost little while it is taken apart, and finding an element again costs more.
fn filtered_first(node: Node) -> Node {
    let Op::Map {
        predicate: Some(predicate),
        projection: Some(projection),
    } = &node.op
    else {
        return node;
    };
    let places = |exprs: &[Physical]| {
        let (mut places, mut elements) = (0, false);
        for e in exprs {
            each_access(e, &mut |column, _| {
                places += 1;
                elements |= is_element(&node.inputs[0], column);
            });
        }
        (places, elements)
    };
    let (in_projection, elements) = places(projection);
    if places(std::slice::from_ref(predicate)).0 > 0 || in_projection < 2 || elements {
        return node;
    }
    let input = &node.inputs[0];
    let op = Op::Map {
        predicate: Some(Arc::clone(predicate)),
        projection: None,
    };
    let filter = super::node(
        op,
        node.inputs.clone(),
        input.schema.clone(),
        input.append_only,
    );
    let op = Op::Map {
        predicate: None,
        projection: Some(projection.clone()),
    };
    super::node(op, vec![filter], node.schema.clone(), node.append_only)
}

/// `expr` with what `f` gives in place of its parts, outermost first.
fn replaced(expr: &Physical, f: &mut dyn FnMut(&Physical) -> Option<Physical>) -> Physical {
    Arc::clone(expr)
        .change_down(&mut |e| {
            Ok(match f(&e) {
                Some(other) => Transformed::new(other, true, TreeNodeRecursion::Jump),
                None => Transformed::no(e),
            })
        })
        .expect("replacing can't fail")
        .data
}

/// The map that makes the arrays, their expression and whether it is jsonb, if `column` of `input` holds the elements
/// of JSON arrays.
fn element_array(input: &Node, column: usize) -> Option<(&Node, &Physical, bool)> {
    let Op::Unnest { columns, structs } = &input.op else {
        return None;
    };
    let [below] = &input.inputs[..] else {
        return None;
    };
    let Op::Map {
        projection: Some(exprs),
        ..
    } = &below.op
    else {
        return None;
    };
    if !structs.is_empty() || !columns.contains(&column) {
        return None;
    }
    let (array, jsonb) = json_members::elements(&exprs[column])?;
    Some((below, array, jsonb))
}

/// True if the column is the elements of a JSON array, perhaps passed on by maps.
fn is_element(input: &Node, column: usize) -> bool {
    let passed_on = || match (&input.op, &input.inputs[..]) {
        (Op::Map { projection, .. }, [below]) => match projection {
            Some(exprs) => expr::as_column(&exprs[column]).is_some_and(|c| is_element(below, c)),
            None => is_element(below, column),
        },
        _ => false,
    };
    element_array(input, column).is_some() || passed_on()
}

/// Notes which members the maps of the plan take of which rows.
fn collect(node: &Node, taken: &mut HashMap<String, Columns>) {
    node.inputs.iter().for_each(|n| collect(n, taken));
    let mut columns = Columns::new();
    // A map without projection hands everything on.
    let hands_on = matches!(
        node.op,
        Op::Map {
            projection: None,
            ..
        }
    );
    let mut whole = BTreeSet::new();
    for e in map_exprs(node) {
        each_use(e, &mut |column, access| {
            let Some(access) = access else {
                whole.insert(column);
                return;
            };
            let element = element_array(&node.inputs[0], column).is_some();
            let of = columns.entry(column).or_default();
            of.jsonb = access.jsonb;
            // Of an element even one member alone is cheaper to find as the array is taken apart.
            of.places += if element { 2 } else { 1 };
            of.wanted.insert(access.wanted);
        });
    }
    if columns.is_empty() {
        return;
    }
    let all = taken.entry(fingerprint(&node.inputs[0])).or_default();
    for (column, more) in columns {
        let of = all.entry(column).or_default();
        of.jsonb = more.jsonb;
        of.places += more.places;
        of.wanted.extend(more.wanted);
        of.whole |= hands_on;
    }
    for column in whole {
        all.entry(column).or_default().whole = true;
    }
}

/// The plan with columns for the members in `taken`.
fn rewritten(old: &Node, taken: &HashMap<String, Columns>) -> Node {
    let inputs: Vec<Node> = old.inputs.iter().map(|n| rewritten(n, taken)).collect();
    let takes = map_exprs(old).any(|e| {
        let mut any = false;
        each_access(e, &mut |_, _| any = true);
        any
    });
    let columns = match takes {
        true => taken.get(&fingerprint(&old.inputs[0])),
        false => None,
    };
    let (
        Some(columns),
        Op::Map {
            predicate,
            projection,
        },
    ) = (columns, &old.op)
    else {
        return Node {
            inputs,
            ..old.clone()
        };
    };
    let [input] = &inputs[..] else {
        unreachable!("a map has one input")
    };
    let wide = widened(input, columns);
    let mut member = |e: &Physical| -> Option<Physical> {
        if let Some(column) = expr::as_column(e) {
            let at = wide.columns[column].expect("what is used as a whole is kept");
            return Some(expr::column(&wide.node.schema, at));
        }
        let (column, access) = of_column(e)?;
        let of = columns.get(&column)?;
        let nth = of.wanted.iter().position(|w| *w == access.wanted)?;
        let first = wide.members[&column];
        Some(expr::column(&wide.node.schema, first + nth))
    };
    let predicate = predicate.as_ref().map(|e| replaced(e, &mut member));
    let all: Vec<Physical> = match projection {
        Some(exprs) => exprs.clone(),
        None => (0..input.schema.fields().len())
            .map(|i| expr::column(&input.schema, i))
            .collect(),
    };
    let projection = all.iter().map(|e| replaced(e, &mut member)).collect();
    let op = Op::Map {
        predicate,
        projection: Some(projection),
    };
    node(
        op,
        vec![wide.node.clone()],
        old.schema.clone(),
        old.append_only,
    )
}

/// Rows with columns for members.
struct Wide {
    node: Node,
    /// Where each column is that the rows had, unless only members of it are used.
    columns: Vec<Option<usize>>,
    /// Where the members of a column begin.
    members: HashMap<usize, usize>,
}

fn widened(input: &Node, taken: &Columns) -> Wide {
    let width = input.schema.fields().len();
    let mut wide = Wide {
        node: input.clone(),
        columns: (0..width).map(Some).collect(),
        members: HashMap::new(),
    };
    let mut rest = taken.clone();
    if let Some(elements) = with_elements(input, taken) {
        rest.retain(|c, _| !elements.members.contains_key(c));
        wide = elements;
    }
    if rest.is_empty() {
        return wide;
    }
    // The structs of members behind all columns, then spread.
    let schema = wide.node.schema.clone();
    let mut exprs: Vec<Physical> = (0..schema.fields().len())
        .map(|i| expr::column(&schema, i))
        .collect();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut spread = fields.clone();
    let structs: Vec<usize> = (0..rest.len()).map(|i| exprs.len() + i).collect();
    for (column, of) in &rest {
        let wanted: Vec<Wanted> = of.wanted.iter().cloned().collect();
        let at = wide.columns[*column].expect("only elements are left out");
        let value = expr::column(&schema, at);
        let members = json_members::of_object(value, &wanted, of.jsonb);
        fields.push(field_of(&members, "members", &schema));
        exprs.push(members);
        wide.members.insert(*column, spread.len());
        spread.extend(wanted.iter().map(|w| derived(w, of.jsonb)));
    }
    let append_only = input.append_only;
    let op = Op::Map {
        predicate: None,
        projection: Some(exprs),
    };
    let with_structs = node(
        op,
        vec![wide.node],
        Arc::new(Schema::new(fields)),
        append_only,
    );
    let op = Op::Unnest {
        columns: vec![],
        structs,
    };
    wide.node = node(
        op,
        vec![with_structs],
        Arc::new(Schema::new(spread)),
        append_only,
    );
    wide
}

/// The rows of `input` with the members of those columns that are elements of a JSON array, if any is.
fn with_elements(input: &Node, taken: &Columns) -> Option<Wide> {
    let arrays = taken
        .keys()
        .filter_map(|c| Some((*c, element_array(input, *c)?)));
    let arrays: BTreeMap<usize, (&Node, &Physical, bool)> = arrays.collect();
    let (_, (below, ..)) = arrays.first_key_value()?;
    let (
        Op::Unnest { columns, .. },
        Op::Map {
            predicate,
            projection,
        },
    ) = (&input.op, &below.op)
    else {
        return None;
    };
    let mut exprs = projection.clone()?;
    let mut fields: Vec<Field> = below
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    let mut spread = vec![];
    let mut wide = Wide {
        node: input.clone(),
        columns: vec![],
        members: HashMap::new(),
    };
    for (i, field) in input.schema.fields().iter().enumerate() {
        let array = arrays.get(&i);
        let keeps = array.is_none() || taken[&i].whole;
        wide.columns.push(keeps.then_some(spread.len()));
        if keeps {
            spread.push(field.as_ref().clone());
        }
        let Some((_, array, jsonb)) = array else {
            continue;
        };
        let wanted: Vec<Wanted> = taken[&i].wanted.iter().cloned().collect();
        let lists = json_members::of_elements(Arc::clone(array), &wanted, *jsonb, keeps);
        fields[i] = field_of(&lists, field.name(), &below.inputs[0].schema);
        exprs[i] = lists;
        wide.members.insert(i, spread.len());
        spread.extend(wanted.iter().map(|w| derived(w, *jsonb)));
    }
    let op = Op::Map {
        predicate: predicate.clone(),
        projection: Some(exprs),
    };
    let schema = Arc::new(Schema::new(fields));
    let lists = node(op, below.inputs.clone(), schema, below.append_only);
    let op = Op::Unnest {
        columns: columns.clone(),
        structs: arrays.into_keys().collect(),
    };
    wide.node = node(
        op,
        vec![lists],
        Arc::new(Schema::new(spread)),
        input.append_only,
    );
    Some(wide)
}

/// The column that an expression of ours makes.
fn field_of(e: &Physical, name: &str, schema: &SchemaRef) -> Field {
    let data_type = e.data_type(schema).unwrap_or(DataType::Null);
    Field::new(name, data_type, true)
}

/// A column of members: it repeats what the row says already.
fn derived(wanted: &Wanted, jsonb: bool) -> Field {
    let mut field = wanted.field(jsonb);
    field
        .metadata_mut()
        .insert(DERIVED_KEY.into(), String::new());
    field
}
