# A machine in namespaces, with systemd as its first process and no other units than those
# that it is given.
#
#     unshare --mount machine.sh FOLDER [clear]
#
# FOLDER has units, var (which is its /var/lib), messages (a file for what systemd says), name
# (a file with the name of its control group) and groups, an empty place. All of it ends with
# its first process, but for the control group: clear removes it.
set -e
folder=$1
if [ "$2" != inside ]; then
    # systemd rules over the group that it finds itself in.
    mount -t cgroup2 none "$folder/groups"
    group=$folder/groups/$(cat "$folder/name")
    if [ "$2" = clear ]; then
        exec find "$group" -depth -type d -exec rmdir {} +
    fi
    mkdir "$group"
    echo $$ > "$group/cgroup.procs"
    exec unshare --cgroup --pid --fork --uts --ipc sh "$0" "$folder" inside
fi
umount "$folder/groups"
mount -t proc proc /proc
# Nothing that the machine around it has is changed.
for place in /proc/sys /etc; do
    mount --bind $place $place
    mount -o remount,bind,ro $place
done
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/tmp
mount --bind "$folder/var" /var/lib
mount --bind "$folder/messages" /dev/kmsg
exec setpriv --bounding-set=-sys_time,-sys_boot,-sys_module,-sys_rawio \
    env -i PATH="$PATH" container=lxc SYSTEMD_UNIT_PATH="$folder/units" \
    /lib/systemd/systemd --unit=trial.target --log-target=kmsg --show-status=no
