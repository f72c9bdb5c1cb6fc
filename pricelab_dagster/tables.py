"""The columns of every table: name, type and meaning, the sort key, and whether it is partitioned by experiment."""

from dataclasses import dataclass

import pyarrow as pa

TEXT, DAY, REAL, WHOLE, FLAG = pa.string(), pa.date32(), pa.float64(), pa.int64(), pa.bool_()
REALS = pa.list_(pa.float64())


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, Arrow type and meaning with unit."""

    name: str
    type: pa.DataType
    description: str


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table: `key` columns sort its rows; `open_ended` tables may carry further columns (the lab's attributes)."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned: bool = False
    open_ended: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The declared columns as an Arrow schema."""
        return pa.schema([(column.name, column.type) for column in self.columns])


def _columns(text: str) -> tuple[Column, ...]:
    types = {"text": TEXT, "day": DAY, "real": REAL, "whole": WHOLE, "flag": FLAG, "reals": REALS}
    rows = [line.split("|") for line in text.splitlines() if line.strip()]
    return tuple(Column(name.strip(), types[kind.strip()], meaning.strip()) for name, kind, meaning in rows)


_EXPERIMENT = "experiment_id | text | the experiment, which is the name of its file\n"
_EFFECT_VALUES = """
    effect      | real  | relative: part of the control level (0.10 is 10 %); level: metric per product and period
    se          | real  | bootstrap standard error, on the effect's scale
    ci_lower    | real  | lower end of the confidence interval
    ci_upper    | real  | upper end of the confidence interval
"""

_SPECS = [
    TableSpec(
        "staging.stg_sales",
        _columns("""
            product_id | text | product
            date       | day  | period: the day, or the day that labels the week
            units      | real | units sold
            revenue    | real | sum of units x price
            price      | real | revenue / units
            cost       | real | units-weighted unit cost; null without a cost column
        """),
        ("product_id", "date"),
    ),
    TableSpec(
        "staging.stg_products",
        _columns("""
            product_id | text | product
            category   | text | the category that strata and substitutes are drawn in
        """),
        ("product_id",),
        open_ended=True,
    ),
    TableSpec(
        "staging.stg_events",
        _columns("""
            event_id    | text | event
            product_id  | text | product that the event touches
            occurred_on | day  | date of the event
            kind        | text | kind of event, which triggered experiments name
            n_rows      | whole | rows of the source that hold the event; it counts once
        """),
        ("event_id", "product_id", "occurred_on", "kind"),
    ),
    TableSpec(
        "staging.stg_incumbent_prices",
        _columns("""
            product_id | text | product
            date       | day  | period from which the price holds
            price      | real | price of the running policy
        """),
        ("product_id", "date"),
    ),
    TableSpec(
        "intermediate.int_product_days",
        _columns("""
            product_id | text | product
            date       | day  | period of the whole calendar
            units      | real | units sold, 0 where nothing was sold
            revenue    | real | revenue, 0 where nothing was sold
            price      | real | unit price; the last observed carried forward (backward at the start)
            cost       | real | unit cost, carried like the price; null without a cost column
            profit     | real | revenue - units x cost; null without a cost column
            is_sold    | flag | whether anything was sold in the period
        """),
        ("product_id", "date"),
    ),
    TableSpec(
        "intermediate.int_data_quality",
        _columns("""
            rule       | text  | what is looked for
            source     | text  | which source
            rows_found | whole | rows that match the rule
            rows_kept  | whole | of those, the rows that stay
            action     | text  | what is done with them
        """),
        ("source", "rule"),
    ),
    TableSpec(
        "intermediate.int_product_features",
        _columns(
            _EXPERIMENT
            + """
            product_id      | text  | product
            category        | text  | category
            units_per_day   | real  | units per calendar day, from the first sale to the eve of the start
            revenue_per_day | real  | revenue per calendar day over the same time
            base_price      | real  | revenue / units before the start
            last_price      | real  | last price before the start
            min_price       | real  | lowest price before the start
            max_price       | real  | highest price before the start
            active_days     | whole | periods with sales before the start
            history_periods | whole | periods from the first sale to the eve of the start
            first_sold      | day   | first period with sales
            last_sold       | day   | last period with sales before the start
        """
        ),
        ("product_id",),
        partitioned=True,
        open_ended=True,
    ),
    TableSpec(
        "spillover.substitute_edges",
        _columns(
            _EXPERIMENT
            + """
            product_id    | text  | product whose demand responds
            on_price_of   | text  | product whose price moves
            effect        | real  | change of log demand per change of log price; positive: substitutes
            se            | real  | standard error (Newey-West)
            z             | real  | symmetrised statistic over its empirical null
            q_value       | real  | Benjamini-Hochberg q-value of z
            shrunk_effect | real  | empirical-Bayes estimate
            series_group  | text  | products whose prices move as one series share the label
            history_weeks | whole | weeks of history used
            reason        | text  | why the pair is not identified
        """
        ),
        ("product_id", "on_price_of"),
        partitioned=True,
    ),
    TableSpec(
        "spillover.product_clusters",
        _columns(_EXPERIMENT + "product_id | text | product\ncluster_id | text | cluster of dense substitutes"),
        ("product_id",),
        partitioned=True,
    ),
    TableSpec(
        "spillover.certificate",
        _columns(
            _EXPERIMENT
            + """
            choice           | text  | product, or clusters with their cap
            max_size         | whole | largest cluster; null by product
            n_units          | whole | units that are assigned
            bias             | real  | predicted spillover bias of the total effect, in parts of untreated demand
            ci_lower         | real  | lower end of its 95 % interval
            ci_upper         | real  | upper end of its 95 % interval
            kept_share       | real  | part of the cross effects between products that move together
            identified_share | real  | identified part of the candidate pairs
            se               | real  | standard error of the unfiltered effect, from windows before the start
            se_cost          | real  | its excess over that by product, as a part
            mde              | real  | minimum detectable effect: 2.8 standard errors
            rmse             | real  | root of bias and standard error squared: what the choice is judged by
            is_planned       | flag  | how the experiment assigns
            is_recommended   | flag  | what to take: the smallest rmse, or the plan where it is within noise of that
            reason           | text  | why a value is null, or what it leaves out
        """
        ),
        ("choice",),
        partitioned=True,
    ),
    TableSpec(
        "experiment.power",
        _columns(
            _EXPERIMENT
            + """
            place           | whole | order by rmse, the smallest first
            design          | text  | the candidate in words
            kind            | text  | time_bound, triggered, random_days or crossover
            unit            | text  | what is assigned together: product or cluster
            n_arms          | whole | treatment arms
            duration        | whole | periods in which a product is in the experiment
            blackout        | whole | first periods of each window, block or phase that are left out
            days            | whole | days on the calendar
            n_units         | real  | assignment units in the estimate
            se              | real  | standard error of the relative effect on windows before the start, not inflated
            inflation       | real  | k: realised over predicted standard error in simulated markets
            mde             | real  | minimum detectable effect: 2.8 k standard errors
            coverage        | real  | share of draws on untreated windows whose interval holds 0; null in instant mode
            coverage_lower  | real  | lower end of its 95 % interval
            coverage_upper  | real  | upper end of its 95 % interval
            missed_20_1     | real  | part of the effect hidden by a carryover of .2 that halves in 1 day
            missed_20_2     | real  | part of the effect hidden by a carryover of .2 that halves in 2 days
            missed_20_4     | real  | part of the effect hidden by a carryover of .2 that halves in 4 days
            missed_20_7     | real  | part of the effect hidden by a carryover of .2 that halves in 7 days
            missed_40_1     | real  | part of the effect hidden by a carryover of .4 that halves in 1 day
            missed_40_2     | real  | part of the effect hidden by a carryover of .4 that halves in 2 days
            missed_40_4     | real  | part of the effect hidden by a carryover of .4 that halves in 4 days
            missed_40_7     | real  | part of the effect hidden by a carryover of .4 that halves in 7 days
            carryover_bias  | real  | what carryover hides of the assumed effect
            spillover_bias  | real  | from the certificate; null where it is not identified
            rmse            | real  | root of the squares of se, carryover and spillover: what the choice is judged by
            n_windows       | whole | untreated windows
            n_draws         | whole | draws of the arms in each
            mode            | text  | instant (errors of a few draws) or exact (spread of many)
            is_planned      | flag  | the design of the file
            is_recommended  | flag  | the smallest rmse within the planned calendar
            reason          | text  | why a value is null
        """
        ),
        ("place",),
        partitioned=True,
    ),
    TableSpec(
        "experiment.drawn_arms",
        _columns(
            _EXPERIMENT
            + """
            product_id  | text | product
            unit_id     | text | what is drawn together: the product, or its cluster
            arm         | text | arm drawn for the unit before any event
            probability | real | exact probability that the unit is treated, over all treatment arms
        """
        ),
        ("product_id",),
        partitioned=True,
    ),
    TableSpec(
        "experiment.triggers",
        _columns(
            _EXPERIMENT
            + """
            event_id    | text | event
            product_id  | text | product
            occurred_on | day  | date of the event
            arm         | text | arm drawn for the product before any event; null for a product outside the scope
            start       | day  | first period of the unit's own experiment; null where nothing starts
            end         | day  | last period of the unit's own experiment
            status      | text | started, ghost, duplicate, unknown_product, outside_window, inside_running or late
        """
        ),
        ("event_id", "product_id", "occurred_on", "status"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.assignments",
        _columns(
            _EXPERIMENT
            + """
            product_id  | text | product
            date        | day  | period
            arm         | text | control, or the name of the treatment arm whose price is in force
            in_analysis | flag | false in a blackout
            probability | real | exact probability that the cell is treated, over all arms; null for imported ones
            unit_id     | text | what is drawn together: the product, or its cluster
        """
        ),
        ("product_id", "date"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.price_plan",
        _columns(
            _EXPERIMENT
            + """
            product_id      | text | product
            date            | day  | period
            incumbent_price | real | price of the running policy on that day
            price           | real | price to charge, after guard and rounding
            multiplier      | real | price / incumbent_price
            arm             | text | arm in force
            note            | text | which guard changed the price, or why there is none
        """
        ),
        ("product_id", "date"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.detrended_sales",
        _columns(
            _EXPERIMENT
            + """
            product_id | text | product
            date       | day  | period of the experiment
            metric     | text | units, revenue, profit or price
            observed   | real | observed value
            predicted  | real | forecast from the history before the start
            residual   | real | observed - predicted
        """
        ),
        ("metric", "product_id", "date"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.trimmed_panel",
        _columns(
            _EXPERIMENT
            + """
            product_id          | text  | product
            metric              | text  | units, revenue, profit or price
            scale               | text  | relative or level
            first_difference    | real  | observed minus predicted, as the design contrasts it
            placebo_differences | reals | the same on windows before the start, latest first
            product_scale       | real  | what relative values are divided by
            kept                | flag  | whether the outlier filter keeps the product, in the estimates of all arms
            reason              | text  | why it is not kept, or how it is changed; of several arms, in which estimates
        """
        ),
        ("metric", "scale", "product_id"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.affinity_leaves",
        _columns(
            _EXPERIMENT
            + """
            product_id | text  | product
            tree       | whole | tree of the forest
            leaf       | whole | leaf of that tree in which the product ends
            is_honest  | flag  | whether the product stayed out of the choice of that tree's splits
        """
        ),
        ("tree", "product_id"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.effects",
        _columns(
            _EXPERIMENT
            + """
            metric        | text  | units, revenue, profit or price
            scale         | text  | relative (the headline) or level
            estimator     | text  | how it is estimated: hpte, hajek, difference_in_differences, ...
            arm           | text  | treatment arm, against control; dose_line: per cent of price, over several arms
            estimand      | text  | what the effect is an effect of, in words
        """
            + _EFFECT_VALUES
            + """
            p_value       | real  | two-sided
            n_treated     | whole | products (switchbacks: product-periods) treated and kept
            n_control     | whole | products (switchbacks: product-periods) under control and kept
            n_trimmed     | whole | products that the outlier filter drops or winsorises
            two_arm_share | real  | share of kept products whose leaf holds both arms
            n_replicates  | whole | bootstrap replicates; draws of the mechanism for randomization_inference
            seed          | whole | seed of the experiment
            is_headline   | flag  | the figure to quote for this metric
            reason        | text  | why a value is null, or what to mind
        """
        ),
        ("metric", "scale", "estimator", "arm"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.effect_draws",
        _columns(
            _EXPERIMENT
            + """
            metric    | text  | units, revenue, profit or price
            scale     | text  | relative or level
            estimator | text  | as in experiment.effects
            arm       | text  | as in experiment.effects
            replicate | whole | number of the bootstrap draw, which serves all metrics, scales, estimators and arms
            effect    | real  | the estimate under that draw, null where it is undefined
        """
        ),
        ("metric", "scale", "estimator", "arm", "replicate"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.effect_covariance",
        _columns(
            _EXPERIMENT
            + """
            scale        | text  | relative or level
            estimator    | text  | one of those that can be the headline and have draws
            arm          | text  | as in experiment.effects
            metric       | text  | the first of the pair, in the order of the alphabet
            other_metric | text  | the second, or the same: then the covariance is the squared standard error
            covariance   | real  | of the two estimates over the bootstrap draws, product of their units
            correlation  | real  | the same in parts of both standard errors; null where one does not vary
            n_replicates | whole | bootstrap draws in which both are defined
        """
        ),
        ("scale", "estimator", "arm", "metric", "other_metric"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.elasticities",
        _columns(
            _EXPERIMENT
            + """
            arm                | text  | treatment arm, against control
            elasticity         | real  | ln(1 + relative effect on units) / ln(1 + relative effect on the price)
            se                 | real  | standard error by the delta method, from the joint bootstrap draws
            ci_lower           | real  | lower end of the confidence interval (Fieller, on the logs)
            ci_upper           | real  | upper end of the confidence interval (Fieller, on the logs)
            price_t            | real  | effect on the price over its standard error; below 3.2 there is no elasticity
            break_even_revenue | real  | elasticity at which the price change leaves revenue as it was: -1
            break_even_profit  | real  | the same for profit, at the margin of the control cells
            verdict_revenue    | text  | on which side of break-even the interval lies for revenue
            verdict_profit     | text  | on which side of break-even the interval lies for profit
            n_replicates       | whole | bootstrap draws in which both effects have a logarithm
            reason             | text  | why a value is null, or what to mind
        """
        ),
        ("arm",),
        partitioned=True,
    ),
    TableSpec(
        "experiment.after_effects",
        _columns(
            _EXPERIMENT
            + """
            arm            | text  | treatment arm, against control
            metric         | text  | units where the experiment measures them, else its first metric
            periods_since  | whole | periods since the start of the window, block or phase
            effect         | real  | of that period alone, in parts of the products' level before the start
            se             | real  | its standard error, over assignment units
            ci_lower       | real  | lower end of the pointwise 95 % interval
            ci_upper       | real  | upper end of the pointwise 95 % interval
            effect_after   | real  | mean effect from this period on: the estimate under a blackout of so many periods
            gap            | real  | all later periods less the next few: what a longer blackout would still move
            gap_se         | real  | its standard error
            is_recommended | flag  | the shortest blackout whose gap is within noise
            reason         | text  | why a value is null, or why no blackout is recommended
        """
        ),
        ("arm", "periods_since"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.segment_effects",
        _columns(
            _EXPERIMENT
            + """
            arm                | text  | treatment arm, against control
            metric             | text  | the experiment's first metric
            scale              | text  | relative
            place              | whole | order of the segments: 0 all products, then attribute by attribute
            attribute          | text  | attribute by which products are grouped, the effect forest, or all products
            segment            | text  | level, third, missing or other; all products
            estimand           | text  | what the effect is an effect of, in words
        """
            + _EFFECT_VALUES.replace("bootstrap standard error", "cluster-robust standard error")
            + """
            simultaneous_lower | real  | lower end of the intervals that hold all segments of the arm at once
            simultaneous_upper | real  | upper end of the intervals that hold all segments of the arm at once
            p_value            | real  | two-sided, of no effect in the segment
            p_adjusted         | real  | the same, adjusted over all segments of the arm (Holm)
            p_equal            | real  | p-value of the same effect in all segments of the attribute
            n_products         | whole | products with a score of the effect
            n_treated          | whole | of those, the ones in the arm; on random days all
            n_control          | whole | of those, the ones under control; on random days all
            reason             | text  | why a value is null, or what to mind
        """
        ),
        ("arm", "metric", "place"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.effect_projection",
        _columns(
            _EXPERIMENT
            + """
            arm         | text  | treatment arm, against control
            metric      | text  | the experiment's first metric, on the relative scale
            place       | whole | order of the terms: 0 the mean effect, then the attributes, the joint test last
            term        | text  | mean effect, an attribute one standard deviation up, or the joint test
            estimand    | text  | what the coefficient is an effect of, in words
            coefficient | real  | the effect, or its change, as part of the mean without treatment over all products
            se          | real  | cluster-robust standard error
            ci_lower    | real  | lower end of the confidence interval
            ci_upper    | real  | upper end of the confidence interval
            p_value     | real  | two-sided; of the joint test that no attribute goes with the effect
            p_adjusted  | real  | of the attributes, adjusted over them (Holm)
            reason      | text  | why a value is null, or what to mind
        """
        ),
        ("arm", "metric", "place"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.trim_curve",
        _columns(
            _EXPERIMENT
            + """
            arm          | text  | treatment arm, against control
            metric       | text  | the experiment's first metric
            scale        | text  | relative
            estimator    | text  | the headline's, as in experiment.effects
            c            | real  | constant of the outlier filter; 0 filters nothing
        """
            + _EFFECT_VALUES
            + """
            n_trimmed    | whole | products that the filter drops or winsorises
            n_replicates | whole | bootstrap replicates, the first ones of the effect's
            reason       | text  | why a value is null, or what to mind
        """
        ),
        ("arm", "metric", "c"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.pair_probabilities",
        _columns(
            _EXPERIMENT
            + """
            product_id              | text  | the first of two neighbours in the graph, in the order of the alphabet
            neighbour_id            | text  | the second
            both_treated            | real  | probability that both are in the experiment and treated
            treated_control         | real  | that the first is treated and the second control
            control_treated         | real  | that the first is control and the second treated
            both_control            | real  | that both are control
            treated_out             | real  | that the first is treated and the second outside the experiment
            control_out             | real  | that the first is control and the second outside
            out_treated             | real  | that the first is outside and the second treated
            out_control             | real  | that the first is outside and the second control
            both_out                | real  | that both are outside
            n_draws                 | whole | draws behind the frequencies; 0 where the probabilities are exact
        """
        ),
        ("product_id", "neighbour_id"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.spillover_effects",
        _columns(
            _EXPERIMENT
            + """
            metric       | text  | units, revenue, profit or price
            scale        | text  | relative or level
            component    | text  | direct, spillover or total; interference: by product less by cluster (mixed)
            estimator    | text  | exposure_linear, exposure_hajek, ...; uncorrected: the headline; meta_experiment
            estimand     | text  | what the number estimates, in words
        """
            + _EFFECT_VALUES
            + """
            n_units      | whole | products with overlap
            n_no_overlap | whole | products left out for want of overlap
            reason       | text  | why a value is null, or what to mind
        """
        ),
        ("metric", "scale", "component", "estimator"),
        partitioned=True,
    ),
    TableSpec(
        "experiment.diagnostics",
        _columns(
            _EXPERIMENT
            + """
            check_name | text | check
            status     | text | passed, failed or informational
            value      | real | statistic
            threshold  | real | bound that the status compares with
            p_value    | real | p-value, where the check has one
            message    | text | the finding in a sentence
        """
        ),
        ("check_name",),
        partitioned=True,
    ),
]

TABLES: dict[str, TableSpec] = {spec.name: spec for spec in _SPECS}

_MART_OF = {
    "marts.fct_experiment_effects": "experiment.effects",
    "marts.fct_assignments": "experiment.assignments",
    "marts.fct_price_plan": "experiment.price_plan",
    "marts.fct_spillover_effects": "experiment.spillover_effects",
    "marts.fct_diagnostics": "experiment.diagnostics",
    "marts.fct_substitute_edges": "spillover.substitute_edges",
    "marts.fct_product_clusters": "spillover.product_clusters",
}
for _mart, _source in _MART_OF.items():
    TABLES[_mart] = TableSpec(_mart, TABLES[_source].columns, ("experiment_id", *TABLES[_source].key))
TABLES["marts.dim_experiments"] = TableSpec(
    "marts.dim_experiments",
    _columns(
        _EXPERIMENT
        + """
        title          | text  | title
        owner          | text  | owner
        design         | text  | time_bound, triggered, random_days or crossover
        status         | text  | planned, running, concluded or retired
        as_of          | day   | last date in sales
        start          | day   | first period
        end            | day   | last period
        n_products     | whole | products in scope
        n_units        | whole | units drawn
        n_cells        | whole | product-periods
        n_in_analysis  | whole | product-periods outside blackouts
        has_effects    | flag  | whether effects stand in the lake
    """
    ),
    ("experiment_id",),
)
TABLES["marts.dim_products"] = TableSpec(
    "marts.dim_products",
    _columns("""
        product_id  | text  | product
        category    | text  | category
        first_sold  | day   | first period with sales
        last_sold   | day   | last period with sales
        units       | real  | units sold in all
        revenue     | real  | revenue in all
        active_days | whole | periods with sales
    """),
    ("product_id",),
    open_ended=True,
)
