"""What a result is: the record `Samples`, its files, shards and exports."""
