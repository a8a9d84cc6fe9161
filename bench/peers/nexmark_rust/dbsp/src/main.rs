//! Nexmark on DBSP: `nexmark_dbsp QUERY DATA_DIR OUT|- EPOCH_ROWS THREADS` prints the number of rows.
//!
//! Rows are typed, have only the columns that their query uses, and come in the shape that its first operator takes. A transaction
//! has up to EPOCH_ROWS rows of each source.

use std::cmp::Ordering;

use anyhow::{bail, Result};
use dbsp::algebra::UnimplementedSemigroup;
use dbsp::operator::group::CmpFunc;
use dbsp::operator::{Fold, IndexedZSetHandle, Max, ZSetHandle};
use dbsp::typed_batch::IndexedZSetReader;
use dbsp::utils::{Tup2, Tup3, Tup4};
use dbsp::{DBData, DBSPHandle, RootCircuit, Runtime, Stream, ZWeight};
use nexmark_feed::{Args, Fields, Rows, Sink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An input that takes rows of type `R` by the buffer.
trait Input<R> {
    type Entry;
    fn entry(row: R) -> Self::Entry;
    fn append(&self, entries: &mut Vec<Self::Entry>);
}

impl<K: DBData> Input<K> for ZSetHandle<K> {
    type Entry = Tup2<K, ZWeight>;
    fn entry(row: K) -> Self::Entry {
        Tup2(row, 1)
    }
    fn append(&self, entries: &mut Vec<Self::Entry>) {
        ZSetHandle::append(self, entries);
    }
}

impl<K: DBData, V: DBData> Input<(K, V)> for IndexedZSetHandle<K, V> {
    type Entry = Tup2<K, Tup2<V, ZWeight>>;
    fn entry((key, value): (K, V)) -> Self::Entry {
        Tup2(key, Tup2(value, 1))
    }
    fn append(&self, entries: &mut Vec<Self::Entry>) {
        IndexedZSetHandle::append(self, entries);
    }
}

/// An input, and the rows for it.
struct Source<R, H: Input<R>, P> {
    input: H,
    entries: Vec<H::Entry>,
    rows: Rows,
    row: P,
}

/// What the epochs need of a source.
trait Feed {
    /// False when there are no more rows.
    fn feed(&mut self, max: usize) -> Result<bool>;
}

impl<R, H: Input<R>, P: FnMut(&mut Fields) -> Result<R>> Feed for Source<R, H, P> {
    fn feed(&mut self, max: usize) -> Result<bool> {
        let (entries, row) = (&mut self.entries, &mut self.row);
        let more = self.rows.feed(max, |fields| {
            entries.push(H::entry(row(fields)?));
            Ok(())
        })?;
        self.input.append(entries);
        Ok(more)
    }
}

fn source<R, H: Input<R>, P: FnMut(&mut Fields) -> Result<R>>(
    args: &Args,
    name: &str,
    input: H,
    row: P,
) -> Result<Source<R, H, P>> {
    Ok(Source {
        input,
        entries: Vec::new(),
        rows: Rows::open(&args.data, name, 0, 1)?,
        row,
    })
}

/// A transaction per epoch.
fn epochs(mut circuit: DBSPHandle, args: &Args, sources: &mut [&mut dyn Feed]) -> Result<()> {
    let mut more = true;
    while more {
        more = false;
        for source in sources.iter_mut() {
            more |= source.feed(args.epoch_rows)?;
        }
        circuit.transaction()?;
    }
    if circuit.kill().is_err() {
        bail!("a worker has panicked");
    }
    Ok(())
}

/// Counts the rows of a result, in each worker those that it has.
fn end<B>(result: &Stream<RootCircuit, B>, sink: &Sink)
where
    B: IndexedZSetReader + Clone + 'static,
    B::Key: DBData,
    B::Val: DBData,
{
    let sink = sink.clone();
    result.inspect(move |changes| {
        sink.take(
            changes
                .iter()
                .map(|(key, value, diff)| ((key, value), diff)),
        );
    });
}

const WINDOW_MS: u64 = 10_000;
const DAY_MS: u64 = 86_400_000;

/// Auction, bidder, price, time.
fn bid(fields: &mut Fields) -> Result<Tup4<u64, u64, u64, u64>> {
    let (auction, bidder, price) = (fields.number()?, fields.number()?, fields.number()?);
    fields.skip(2)?;
    Ok(Tup4(auction, bidder, price, fields.number()?))
}

fn q0(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, bids) = Runtime::init_circuit(args.threads, move |circuit| {
        let (bids, input) = circuit.add_input_zset();
        end(&bids, &sink);
        Ok(input)
    })?;
    epochs(circuit, args, &mut [&mut source(args, "bid", bids, bid)?])
}

/// The price in thousandths, which are exact.
fn q1(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, bids) = Runtime::init_circuit(args.threads, move |circuit| {
        let (bids, input) = circuit.add_input_zset::<Tup4<u64, u64, u64, u64>>();
        let converted = bids.map(|bid| Tup4(bid.0, bid.1, 908 * bid.2, bid.3));
        end(&converted, &sink);
        Ok(input)
    })?;
    epochs(circuit, args, &mut [&mut source(args, "bid", bids, bid)?])
}

fn q2(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, bids) = Runtime::init_circuit(args.threads, move |circuit| {
        let (bids, input) = circuit.add_input_zset::<Tup2<u64, u64>>();
        end(&bids.filter(|bid| bid.0 % 123 == 0), &sink);
        Ok(input)
    })?;
    let mut bids = source(args, "bid", bids, |fields| {
        let auction = fields.number()?;
        fields.skip(1)?;
        Ok(Tup2(auction, fields.number()?))
    })?;
    epochs(circuit, args, &mut [&mut bids])
}

fn q3(args: &Args, sink: &Sink) -> Result<()> {
    type Person = Tup3<String, String, String>;
    let sink = sink.clone();
    let (circuit, (persons, auctions)) = Runtime::init_circuit(args.threads, move |circuit| {
        let (persons, persons_in) = circuit.add_input_indexed_zset::<u64, Person>();
        let (auctions, auctions_in) = circuit.add_input_zset::<Tup3<u64, u64, u64>>();
        let local = persons.filter(|(_, person)| matches!(person.2.as_str(), "or" | "id" | "ca"));
        let sold = auctions
            .filter(|auction| auction.2 == 10)
            .map_index(|auction| (auction.0, auction.1));
        let result = local.join(&sold, |_, person, id| {
            Tup4(person.0.clone(), person.1.clone(), person.2.clone(), *id)
        });
        end(&result, &sink);
        Ok((persons_in, auctions_in))
    })?;
    let mut persons = source(args, "person", persons, |fields| {
        let (id, name) = (fields.number()?, fields.text()?);
        fields.skip(2)?;
        Ok((id, Tup3(name, fields.text()?, fields.text()?)))
    })?;
    let mut auctions = source(args, "auction", auctions, |fields| {
        let id = fields.number()?;
        fields.skip(6)?;
        Ok(Tup3(fields.number()?, id, fields.number()?))
    })?;
    epochs(circuit, args, &mut [&mut persons, &mut auctions])
}

/// The average as count and sum, which are exact.
fn q4(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, (auctions, bids)) = Runtime::init_circuit(args.threads, move |circuit| {
        let (auctions, auctions_in) = circuit.add_input_indexed_zset::<u64, Tup3<u64, u64, u64>>();
        let (bids, bids_in) = circuit.add_input_indexed_zset::<u64, Tup2<u64, u64>>();
        let valid = auctions.join_index(&bids, |id, auction, bid| {
            let Tup3(category, start, end) = auction;
            (start..=end)
                .contains(&&bid.0)
                .then_some((Tup2(*id, *category), bid.1))
        });
        let averages = valid
            .aggregate(Max)
            .map_index(|(auction, price)| (auction.1, *price))
            .aggregate_linear(|price| Tup2(1i64, *price as i64))
            .map(|(category, average)| Tup3(*category, average.1, average.0));
        end(&averages, &sink);
        Ok((auctions_in, bids_in))
    })?;
    let mut auctions = source(args, "auction", auctions, |fields| {
        let id = fields.number()?;
        fields.skip(4)?;
        let (start, end) = (fields.number()?, fields.number()?);
        fields.skip(1)?;
        Ok((id, Tup3(fields.number()?, start, end)))
    })?;
    let mut bids = source(args, "bid", bids, |fields| {
        let Tup4(auction, _, price, time) = bid(fields)?;
        Ok((auction, Tup2(time, price)))
    })?;
    epochs(circuit, args, &mut [&mut auctions, &mut bids])
}

/// Price, auction, bidder, time.
type PricedBid = Tup4<u64, u64, u64, u64>;

/// The highest price first.
struct Dearest;

impl CmpFunc<PricedBid> for Dearest {
    fn cmp(left: &PricedBid, right: &PricedBid) -> Ordering {
        right.cmp(left)
    }
}

/// The bids of rank one by price in their window, ties among them: one trace instead of a maximum's and a join's.
fn q7(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, bids) = Runtime::init_circuit(args.threads, move |circuit| {
        let (bids, input) = circuit.add_input_indexed_zset::<u64, PricedBid>();
        let highest = bids.topk_rank_custom_order::<Dearest, _, _, _>(
            1,
            |left, right| left.0 == right.0,
            |_, bid| *bid,
        );
        let result = highest.map(|(_, bid)| Tup4(bid.1, bid.0, bid.2, bid.3));
        end(&result, &sink);
        Ok(input)
    })?;
    let mut bids = source(args, "bid", bids, |fields| {
        let Tup4(auction, bidder, price, time) = bid(fields)?;
        Ok((time / WINDOW_MS, Tup4(price, auction, bidder, time)))
    })?;
    epochs(circuit, args, &mut [&mut bids])
}

fn q8(args: &Args, sink: &Sink) -> Result<()> {
    let sink = sink.clone();
    let (circuit, (persons, auctions)) = Runtime::init_circuit(args.threads, move |circuit| {
        let (persons, persons_in) = circuit.add_input_indexed_zset::<Tup2<u64, u64>, String>();
        let (auctions, auctions_in) = circuit.add_input_indexed_zset::<Tup2<u64, u64>, ()>();
        let result = persons
            .distinct()
            .join(&auctions.distinct(), |key, name, ()| {
                Tup3(key.0, name.clone(), key.1)
            });
        end(&result, &sink);
        Ok((persons_in, auctions_in))
    })?;
    let mut persons = source(args, "person", persons, |fields| {
        let (id, name) = (fields.number()?, fields.text()?);
        fields.skip(4)?;
        Ok((Tup2(id, fields.number()? / WINDOW_MS), name))
    })?;
    let mut auctions = source(args, "auction", auctions, |fields| {
        fields.skip(5)?;
        let window = fields.number()? / WINDOW_MS;
        fields.skip(1)?;
        Ok((Tup2(fields.number()?, window), ()))
    })?;
    epochs(circuit, args, &mut [&mut persons, &mut auctions])
}

/// One pass over an auction's prices gives all four answers.
fn q17(args: &Args, sink: &Sink) -> Result<()> {
    type Answer = Tup4<i64, u64, u64, i64>;
    let sink = sink.clone();
    let (circuit, bids) = Runtime::init_circuit(args.threads, move |circuit| {
        let (bids, input) = circuit.add_input_indexed_zset::<Tup2<u64, u64>, u64>();
        let prices = Fold::<u64, Answer, UnimplementedSemigroup<Answer>, _, _>::new(
            Tup4(0, u64::MAX, 0, 0),
            |answer: &mut Answer, price: &u64, times: ZWeight| {
                answer.0 += times;
                answer.1 = answer.1.min(*price);
                answer.2 = answer.2.max(*price);
                answer.3 += *price as i64 * times;
            },
        );
        end(&bids.aggregate(prices), &sink);
        Ok(input)
    })?;
    let mut bids = source(args, "bid", bids, |fields| {
        let Tup4(auction, _, price, time) = bid(fields)?;
        Ok((Tup2(auction, time / DAY_MS), price))
    })?;
    epochs(circuit, args, &mut [&mut bids])
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    let query: fn(&Args, &Sink) -> Result<()> = match args.query.as_str() {
        "q0" => q0,
        "q1" => q1,
        "q2" => q2,
        "q3" => q3,
        "q4" => q4,
        "q7" => q7,
        "q8" => q8,
        "q17" => q17,
        other => bail!("there is no query {other}"),
    };
    let sink = Sink::new(args.out.as_deref())?;
    query(&args, &sink)?;
    sink.finish()
}
