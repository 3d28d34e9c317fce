"""The formats in which models leave: folders that other libraries load by themselves."""
