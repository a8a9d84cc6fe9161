//! Nexmark on differential-dataflow: `nexmark_dd QUERY DATA_DIR OUT|- EPOCH_ROWS THREADS` prints the number of rows.
//!
//! Each worker reads files of its own. Rows are typed, have only the columns that their query uses, and come in the shape that its
//! first operator takes. An epoch has up to EPOCH_ROWS rows of each source.

use anyhow::{bail, Result};
use differential_dataflow::input::InputSession;
use differential_dataflow::operators::{CountTotal, ThresholdTotal};
use differential_dataflow::VecCollection;
use nexmark_feed::{Args, Fields, Rows, Sink};
use timely::dataflow::ProbeHandle;
use timely::worker::Worker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A session, and the rows for it.
struct Source<D: differential_dataflow::Data, P> {
    session: InputSession<u64, D, isize>,
    rows: Rows,
    row: P,
}

/// What the epochs need of a source.
trait Feed {
    /// False when there are no more rows.
    fn feed(&mut self, max: usize) -> Result<bool>;
    fn advance_to(&mut self, time: u64);
}

impl<D: differential_dataflow::Data, P: FnMut(&mut Fields) -> Result<D>> Feed for Source<D, P> {
    fn feed(&mut self, max: usize) -> Result<bool> {
        let (session, row) = (&mut self.session, &mut self.row);
        self.rows.feed(max, |fields| {
            session.insert(row(fields)?);
            Ok(())
        })
    }

    fn advance_to(&mut self, time: u64) {
        self.session.advance_to(time);
        self.session.flush();
    }
}

/// One worker's part of a run.
struct Run<'a> {
    worker: &'a mut Worker,
    args: &'a Args,
    sink: &'a Sink,
}

impl Run<'_> {
    fn source<D: differential_dataflow::Data, P: FnMut(&mut Fields) -> Result<D>>(
        &self,
        name: &str,
        row: P,
    ) -> Result<Source<D, P>> {
        let (index, peers) = (self.worker.index(), self.worker.peers());
        Ok(Source {
            session: InputSession::new(),
            rows: Rows::open(&self.args.data, name, index, peers)?,
            row,
        })
    }

    /// Epoch by epoch, each one to its end.
    fn epochs(self, probe: ProbeHandle<u64>, sources: &mut [&mut dyn Feed]) -> Result<()> {
        let max = self.args.epoch_rows.div_ceil(self.worker.peers());
        let (mut time, mut more) = (0, true);
        while more {
            more = false;
            for source in sources.iter_mut() {
                more |= source.feed(max)?;
            }
            time += 1;
            for source in sources.iter_mut() {
                source.advance_to(time);
            }
            self.worker.step_while(|| probe.less_than(&time));
        }
        Ok(())
    }
}

/// Counts the rows of a result.
fn end<D: differential_dataflow::Data + std::fmt::Debug>(
    result: VecCollection<'_, u64, D>,
    sink: &Sink,
) -> ProbeHandle<u64> {
    let sink = sink.clone();
    let counted = result.inspect_batch(move |_, changes| {
        sink.take(changes.iter().map(|(row, _, diff)| (row, *diff as i64)));
    });
    counted.probe().0
}

const WINDOW_MS: u64 = 10_000;
const DAY_MS: u64 = 86_400_000;

/// Auction, bidder, price, time.
fn bid(fields: &mut Fields) -> Result<(u64, u64, u64, u64)> {
    let (auction, bidder, price) = (fields.number()?, fields.number()?, fields.number()?);
    fields.skip(2)?;
    Ok((auction, bidder, price, fields.number()?))
}

fn q0(run: Run) -> Result<()> {
    let mut bids = run.source("bid", bid)?;
    let probe = run
        .worker
        .dataflow(|scope| end(bids.session.to_collection(scope.clone()), run.sink));
    run.epochs(probe, &mut [&mut bids])
}

/// The price in thousandths, which are exact.
fn q1(run: Run) -> Result<()> {
    let mut bids = run.source("bid", bid)?;
    let probe = run.worker.dataflow(|scope| {
        let bids = bids.session.to_collection(scope.clone());
        let converted =
            bids.map(|(auction, bidder, price, time)| (auction, bidder, 908 * price, time));
        end(converted, run.sink)
    });
    run.epochs(probe, &mut [&mut bids])
}

fn q2(run: Run) -> Result<()> {
    let mut bids = run.source("bid", |fields| {
        let auction = fields.number()?;
        fields.skip(1)?;
        Ok((auction, fields.number()?))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let bids = bids.session.to_collection(scope.clone());
        end(bids.filter(|(auction, _)| auction % 123 == 0), run.sink)
    });
    run.epochs(probe, &mut [&mut bids])
}

fn q3(run: Run) -> Result<()> {
    let mut persons = run.source("person", |fields| {
        let (id, name) = (fields.number()?, fields.text()?);
        fields.skip(2)?;
        Ok((id, (name, fields.text()?, fields.text()?)))
    })?;
    let mut auctions = run.source("auction", |fields| {
        let id = fields.number()?;
        fields.skip(6)?;
        Ok((fields.number()?, id, fields.number()?))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let persons = persons.session.to_collection(scope.clone());
        let auctions = auctions.session.to_collection(scope.clone());
        let local =
            persons.filter(|(_, (_, _, state))| matches!(state.as_str(), "or" | "id" | "ca"));
        let sold = auctions
            .filter(|(_, _, category)| *category == 10)
            .map(|(seller, id, _)| (seller, id));
        let result = local.join_map(sold, |_, (name, city, state), id| {
            (name.clone(), city.clone(), state.clone(), *id)
        });
        end(result, run.sink)
    });
    run.epochs(probe, &mut [&mut persons, &mut auctions])
}

/// The average as sum and count, which are exact.
fn q4(run: Run) -> Result<()> {
    let mut auctions = run.source("auction", |fields| {
        let id = fields.number()?;
        fields.skip(4)?;
        let (start, end) = (fields.number()?, fields.number()?);
        fields.skip(1)?;
        Ok((id, (fields.number()?, start, end)))
    })?;
    let mut bids = run.source("bid", |fields| {
        let (auction, _, price, time) = bid(fields)?;
        Ok((auction, (time, price)))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let auctions = auctions.session.to_collection(scope.clone());
        let bids = bids.session.to_collection(scope.clone());
        let valid = auctions.join_core(
            bids.arrange_by_key(),
            |id, (category, start, end), (time, price)| {
                (start..=end)
                    .contains(&time)
                    .then_some(((*id, *category), *price))
            },
        );
        let highest = valid.reduce(|_, prices, out| {
            out.extend(prices.last().map(|(price, _)| (**price, 1isize)));
        });
        // Count and sum as differences: nothing of a group is read again when it changes.
        let averages = highest
            .explode(|((_, category), price)| Some((category, (1isize, price as isize))))
            .count_total()
            .map(|(category, (count, sum))| (category, sum, count));
        end(averages, run.sink)
    });
    run.epochs(probe, &mut [&mut auctions, &mut bids])
}

/// The bids of a window are sorted by price, so one arrangement has both the highest price and its bids.
fn q7(run: Run) -> Result<()> {
    let mut bids = run.source("bid", |fields| {
        let (auction, bidder, price, time) = bid(fields)?;
        Ok((time / WINDOW_MS, (price, auction, bidder, time)))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let bids = bids.session.to_collection(scope.clone());
        let highest = bids.reduce(|_, bids, out| {
            let Some(((price, ..), _)) = bids.last() else {
                return;
            };
            let ties = bids.iter().rev().take_while(|(bid, _)| bid.0 == *price);
            out.extend(ties.map(|(bid, times)| (**bid, *times)));
        });
        let result =
            highest.map(|(_, (price, auction, bidder, time))| (auction, price, bidder, time));
        end(result, run.sink)
    });
    run.epochs(probe, &mut [&mut bids])
}

fn q8(run: Run) -> Result<()> {
    let mut persons = run.source("person", |fields| {
        let (id, name) = (fields.number()?, fields.text()?);
        fields.skip(4)?;
        Ok(((id, fields.number()? / WINDOW_MS), name))
    })?;
    let mut auctions = run.source("auction", |fields| {
        fields.skip(5)?;
        let window = fields.number()? / WINDOW_MS;
        fields.skip(1)?;
        Ok((fields.number()?, window))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let persons = persons.session.to_collection(scope.clone());
        let auctions = auctions.session.to_collection(scope.clone());
        let result = persons
            .distinct_total()
            .semijoin(auctions.distinct_total())
            .map(|((id, window), name)| (id, name, window));
        end(result, run.sink)
    });
    run.epochs(probe, &mut [&mut persons, &mut auctions])
}

/// One pass over an auction's prices, which are sorted, gives all four answers.
fn q17(run: Run) -> Result<()> {
    let mut bids = run.source("bid", |fields| {
        let (auction, _, price, time) = bid(fields)?;
        Ok(((auction, time / DAY_MS), price))
    })?;
    let probe = run.worker.dataflow(|scope| {
        let bids = bids.session.to_collection(scope.clone());
        let result = bids.reduce(|_, prices, out| {
            let (Some((low, _)), Some((high, _))) = (prices.first(), prices.last()) else {
                return;
            };
            let (count, sum) = prices.iter().fold((0, 0), |(count, sum), (price, times)| {
                (count + times, sum + **price as isize * times)
            });
            out.push(((count, **low, **high, sum), 1isize));
        });
        let result = result
            .map(|((auction, day), (count, low, high, sum))| (auction, day, count, low, high, sum));
        end(result, run.sink)
    });
    run.epochs(probe, &mut [&mut bids])
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    let query: fn(Run) -> Result<()> = match args.query.as_str() {
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
    let workers = {
        let (args, sink) = (args.clone(), sink.clone());
        timely::execute(timely::Config::process(args.threads), move |worker| {
            let run = Run {
                worker,
                args: &args,
                sink: &sink,
            };
            query(run)
        })
        .map_err(anyhow::Error::msg)?
    };
    for outcome in workers.join() {
        outcome.map_err(anyhow::Error::msg)??;
    }
    sink.finish()
}
