# The first fault of an archive, from the lines of tar(1); the rules are those of the installer. Nothing if there is none.
def parts: split("/");
def entry:
    . as $line
    | (capture("^(?<mode>\\S{10}) +(?<owner>\\S+) +(?<size>\\S+) \\S+ \\S+ (?<name>\\S+)(?<rest>.*)$")
        // {name: $line, mode: "?", size: "0"})
    | .kind = .mode[:1]
    | .name |= rtrimstr("/");
def fault:
    if .kind == "?" or (.name | test("^([!-[]|[]-~]|\\\\\\\\)+$") | not) then "it has a name that no file of a configuration has"
    elif (.name | parts[0]) != "etc" or any(.name | parts[]; . == "" or . == "." or . == "..") or .name == "etc/machine-id"
    then "it is none below etc/"
    elif .name | startswith("etc/vauban/configuration/") or . == "etc/vauban/configuration" then "it is the machine's own"
    elif .kind | IN("-", "d", "l") | not then "it is neither a file nor a directory nor a symbolic link"
    elif .owner != "0/0" then "it does not belong to root"
    elif .mode | test("[sStT]") then "it has more rights than a file"
    elif .kind != "l" and (.mode[5:6] == "w" or .mode[8:9] == "w") then "others than root may change it"
    elif .name == "etc" and .kind != "d" then "it is no directory"
    elif (.kind == "l" and (.rest | startswith(" -> ") | not)) or (.kind != "l" and .rest != "")
    then "it has a name that no file of a configuration has"
    else empty end;
def above: parts as $parts | range(1; $parts | length) | $parts[:.] | join("/");
def first_fault:
    (map(select(.kind != "d") | {key: .name, value: true}) | from_entries) as $ends
    | (group_by(.name) | map(select(length > 1 and any(.kind != "d")) | {key: .[0].name, value: true}) | from_entries) as $twice
    | first(
        .[]
        | .fault = first(
            fault,
            (if any(.name | above; in($ends)) then "it stands below something that is no directory" else empty end),
            (if .name | in($twice) then "it is there twice" else empty end))
        | "\(.name): \(.fault)");
[inputs | entry]
| if length > $most then "the configuration has more than \($most) files"
  elif (map(select(.kind == "-") | .size | tonumber? // 0) | add // 0) > $largest
  then "the configuration holds more than \($largest) bytes"
  else first_fault end
