"""The checks that stand beside the effects of an experiment, by name: what each of them asks."""

CHECKS = {
    "price_compliance": "Whether shops charged the planned prices.",
    "one_price": "Whether each product has one price in a period.",
    "guarded_prices": "Whether the guard put treated prices back to the incumbent one.",
    "drawn_before_start": "Whether the arms were fixed before the start.",
    "follows_design": "Whether an imported assignment is what the experiment's file declares.",
    "triggers_by_arm": "Whether products of one arm were triggered more often.",
    "carryover": "What a treated day does to the control day after it.",
    "cell_balance": "Whether every weekday has its part of treatment.",
    "covariate_balance": "Whether the arms' attributes differ by more than a random draw makes them.",
    "pre_trend": "Whether treated products were already drifting away from control before the start.",
    "missing_by_arm": "Whether products are missing more often in one arm.",
    "two_arm_share": "Whether enough products share a leaf with the other arm.",
    "estimators_agree": "Whether the other estimators agree with the headline, and why they may not.",
    "aa_own_history": "How often the design finds an effect before the start, where there is none.",
    "stockouts_by_arm": "Whether stock-outs fall on one arm.",
    "promotions_by_arm": "Whether prices moved beyond the treatment, and on one arm.",
    "outliers_listed": "Which products the outlier filter drops or holds.",
    "other_experiments": "Whether other experiments test the same categories at the same time.",
}
