//! Tests of the codec: every type there and back, sliced, and damaged bytes.

use std::sync::Arc;

use arrow::array::builder::{MapBuilder, StringBuilder};
use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const ROWS: usize = 37;

fn text(rng: &mut ChaCha8Rng) -> Option<String> {
    let alphabet = ["a", "b", "é", "€", "😀", "xyzxyz", ""];
    let parts = rng.random_range(0..6);
    let value = (0..parts)
        .map(|_| alphabet[rng.random_range(0..alphabet.len())])
        .collect();
    rng.random_bool(0.8).then_some(value)
}

fn numbers(rng: &mut ChaCha8Rng) -> Vec<Option<i64>> {
    (0..ROWS)
        .map(|_| rng.random_bool(0.8).then(|| rng.random()))
        .collect()
}

/// One column of every type that the codec knows.
fn every_type(rng: &mut ChaCha8Rng) -> Vec<ArrayRef> {
    let ints = Int64Array::from(numbers(rng));
    let texts: Vec<Option<String>> = (0..ROWS).map(|_| text(rng)).collect();
    let utf8 = StringArray::from(texts.clone());
    let mut out: Vec<ArrayRef> = vec![
        Arc::new(NullArray::new(ROWS)),
        Arc::new(
            (0..ROWS)
                .map(|i| Some(i % 3 == 0))
                .collect::<BooleanArray>(),
        ),
        Arc::new(
            (0..ROWS)
                .map(|i| (i % 5 > 0).then_some(i % 2 == 0))
                .collect::<BooleanArray>(),
        ),
        Arc::new(utf8.clone()),
        Arc::new(LargeStringArray::from(texts.clone())),
        Arc::new(StringViewArray::from_iter(texts.clone())),
        Arc::new(StringViewArray::from_iter_values(
            texts
                .iter()
                .map(|t| t.as_deref().unwrap_or("a longer one than twelve")),
        )),
    ];
    for t in [
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
    ] {
        out.push(arrow::compute::cast(&utf8, &t).unwrap());
    }
    for t in [
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
        DataType::Date64,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Duration(TimeUnit::Microsecond),
    ] {
        out.push(arrow::compute::cast(&ints, &t).unwrap());
    }
    out.push(Arc::new(ints.unary::<_, Date32Type>(|v| v as i32)));
    out.push(Arc::new(ints.unary::<_, Float16Type>(|v| half(v as f32))));
    out.push(Arc::new(
        ints.unary::<_, Decimal128Type>(|v| i128::from(v) << 30)
            .with_precision_and_scale(38, 4)
            .unwrap(),
    ));
    out.push(Arc::new(
        ints.unary::<_, Decimal256Type>(|v| v.into())
            .with_precision_and_scale(76, 4)
            .unwrap(),
    ));
    out.push(Arc::new(ints.unary::<_, IntervalMonthDayNanoType>(|v| {
        IntervalMonthDayNanoType::make_value(v as i32, -3, v)
    })));
    out.push(Arc::new(ints.unary::<_, IntervalDayTimeType>(|v| {
        IntervalDayTimeType::make_value(v as i32, 7)
    })));
    out.extend(nested(rng, &ints, &utf8));
    out
}

fn half(v: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::from_f32(v)
}

fn nested(rng: &mut ChaCha8Rng, ints: &Int64Array, utf8: &StringArray) -> Vec<ArrayRef> {
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        (0..ROWS).map(|i| (i % 4 > 0).then_some([i as u8; 5])),
        5,
    )
    .unwrap();
    let lengths: Vec<usize> = (0..ROWS).map(|_| rng.random_range(0..3)).collect();
    let nulls: NullBuffer = (0..ROWS).map(|i| i % 6 > 0).collect::<Vec<bool>>().into();
    let total: usize = lengths.iter().sum();
    let values: ArrayRef = Arc::new(StringViewArray::from_iter((0..total).map(|_| text(rng))));
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths.iter().copied());
    let list = ListArray::new(item.clone(), offsets, values.clone(), Some(nulls.clone()));
    let wide = OffsetBuffer::<i64>::from_lengths(lengths);
    let large = LargeListArray::new(item, wide, values, None);
    let fields: Fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("l", list.data_type().clone(), true),
    ]
    .into();
    let columns: Vec<ArrayRef> = vec![Arc::new(ints.clone()), Arc::new(list.clone())];
    let pair = StructArray::new(fields, columns, Some(nulls.clone()));
    let two = FixedSizeListArray::new(
        Arc::new(Field::new("item", DataType::Int64, true)),
        2,
        Arc::new(Int64Array::from_iter(
            (0..ROWS as i64 * 2).map(|i| (i % 7 > 0).then_some(i)),
        )),
        Some(nulls),
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Array::builder(0));
    for i in 0..ROWS {
        for k in 0..i % 3 {
            map.keys().append_value(format!("k{k}"));
            map.values().append_value(i as i64);
        }
        map.append(i % 5 > 0).unwrap();
    }
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    vec![
        Arc::new(fixed),
        Arc::new(list),
        Arc::new(large),
        Arc::new(pair),
        Arc::new(two),
        Arc::new(map.finish()),
        arrow::compute::cast(utf8, &dictionary).unwrap(),
        Arc::new(StructArray::new_empty_fields(ROWS, None)),
    ]
}

fn batch_of(columns: Vec<ArrayRef>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn round_trip(batch: &RecordBatch) {
    let mut bytes = Vec::new();
    encode(batch, &mut bytes);
    assert_eq!(bytes.len() % 8, 0);
    let back = decode(&batch.schema(), &bytes).unwrap();
    assert_eq!(&back, batch);
    let encoded = Encoded::parse(Buffer::from(bytes.as_slice())).unwrap();
    assert_eq!(encoded.len(), bytes.len());
    // At an odd address nothing is aligned: values are copied, the result is the same.
    let mut shifted = vec![0u8; 1];
    shifted.extend_from_slice(&bytes);
    let shifted = Buffer::from(shifted).slice(1);
    let encoded = Encoded::parse(shifted).unwrap();
    for (i, column) in batch.columns().iter().enumerate() {
        assert_eq!(&encoded.column(i, column.data_type()).unwrap(), column);
    }
}

#[test]
fn every_type_there_and_back_whole_and_sliced() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let batch = batch_of(every_type(&mut rng));
        round_trip(&batch);
        for _ in 0..10 {
            let from = rng.random_range(0..=ROWS);
            let len = rng.random_range(0..=ROWS - from);
            round_trip(&batch.slice(from, len));
        }
    }
}

#[test]
fn no_columns_and_no_rows() {
    let schema: SchemaRef = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(9));
    let batch = RecordBatch::try_new_with_options(schema.clone(), vec![], &options).unwrap();
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    assert_eq!(decode(&schema, &bytes).unwrap().num_rows(), 9);
}

#[test]
fn appends_where_the_output_ends() {
    let batch = batch_of(vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]);
    let mut bytes = vec![7u8; 5];
    encode(&batch, &mut bytes);
    assert_eq!(decode(&batch.schema(), &bytes[5..]).unwrap(), batch);
}

#[test]
fn damaged_bytes_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    println!("seed 11");
    for column in every_type(&mut rng) {
        let batch = batch_of(vec![column]);
        let mut bytes = Vec::new();
        encode(&batch, &mut bytes);
        let schema = batch.schema();
        for cut in 0..bytes.len() {
            let _ = decode(&schema, &bytes[..cut]);
        }
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                damaged[at] = match rng.random_range(0..3) {
                    0 => rng.random(),
                    1 => damaged[at] ^ (1 << rng.random_range(0..8)),
                    _ => 0xff,
                };
            }
            if let Ok(b) = decode(&schema, &damaged) {
                // Whatever came out can be walked.
                let _ = b.columns().iter().map(|c| c.null_count()).sum::<usize>();
            }
        }
    }
    assert!(matches!(
        decode(&Arc::new(Schema::empty()), &[9; 16]),
        Err(CodecError::Version(9))
    ));
}

#[test]
fn short_texts_share_and_long_texts_point_into_the_bytes() {
    let long = "a text of more than twelve bytes".to_string();
    let values = StringViewArray::from(vec!["short", &long, "", "exactly12byt"]);
    let batch = batch_of(vec![Arc::new(values)]);
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    let shared = Buffer::from(bytes);
    let range = shared.as_ptr_range();
    let encoded = Encoded::parse(shared.clone()).unwrap();
    let column = encoded.column(0, &DataType::Utf8View).unwrap();
    let data = column.as_string_view().data_buffers();
    assert!(range.contains(&data[0].as_ptr()), "copied");
    assert_eq!(column.as_string_view().value(1), long);
}

#[test]
fn the_first_version_is_read() {
    let mut bytes = vec![1, 0, 0, 0];
    for n in [2u32, 2, 0, 24, 24] {
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 8]);
    for n in [7i64, -1] {
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 8]);
    for offset in [0u32, 1, 3] {
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    bytes.extend_from_slice(b"abc\0");
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("t", DataType::Utf8View, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![7, -1])),
        Arc::new(StringViewArray::from(vec!["a", "bc"])),
    ];
    let expected = RecordBatch::try_new(schema.clone(), columns).unwrap();
    assert_eq!(decode(&schema, &bytes).unwrap(), expected);
}

#[test]
fn small_numbers_and_short_texts_take_little_room() {
    let rows = 1000;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(
            (0..rows).map(|i| 1_000_000_000_000 + i % 250),
        )),
        Arc::new(StringViewArray::from_iter_values(
            (0..rows).map(|i| format!("w{}", i % 10)),
        )),
        Arc::new(
            Decimal128Array::from_iter_values((0..rows).map(|i| i128::from(i) - 500))
                .with_precision_and_scale(38, 2)
                .unwrap(),
        ),
    ];
    let mut out = Vec::new();
    encode_columns(&columns, rows as usize, &mut out);
    let (numbers, texts, decimals) = (rows, 3 * rows, 2 * rows);
    assert!(
        out.len() < (numbers + texts + decimals) as usize + 200,
        "{} bytes",
        out.len()
    );
    let encoded = Encoded::parse(Buffer::from_vec(out)).unwrap();
    for (i, c) in columns.iter().enumerate() {
        assert_eq!(&encoded.column(i, c.data_type()).unwrap(), c);
    }
}
