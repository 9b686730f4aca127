"""Select: columns and near pairs → one decision for every row of the plan."""
