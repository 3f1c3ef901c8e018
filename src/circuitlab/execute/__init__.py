"""What methods and evaluation share: batches by length, unedited and edited runs, traces with gradients, paths, and the contract."""
